"""Keeps the index of episodes equal to the record, off the path of every write: what it does can delay no answer.

Whoever changes an episode names it (`touch`, which only remembers the id), and the named ones are read a second later,
a few at a time, with pauses. That is the speed of the index; its truth is a comparison of all episodes with the record,
at the start, every quarter of an hour, and whenever something has failed. So it does not matter who else writes, what
was lost when a process was killed, or whether the file is of yesterday.

One thread does all of this, so that nothing read before an erasure is written after it. An error of the index is logged
and tried again later. Meanwhile lists do without it, or say so.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa

from server.background import end
from server.recording.reading.index_file import SECURE, IndexFile, Unusable
from server.recording.reading.index_rows import recorded, remove_episodes, write_episodes
from server.store.chunks import chunks
from server.store.database import BROKEN, Database
from server.store.tables import EpisodeRow

log = logging.getLogger("upturn.index")
Result = TypeVar("Result")

SOON_S = 1.0
"""Pause between a change and its reading, in which further changes of the episode gather."""
COMPARE_S = 900.0
AGAIN_S = 30.0
"""Pause after an error that follows another one."""
BITE, COMPARED, MERGED = 20, 250, 200
"""Episodes read, episodes compared, and pages merged at once: some milliseconds."""
COMPACT_S_PER_MIB = 30.0
"""Time between two compactions for each MiB of the file: what they write is little on average."""
REST = 3.0
"""Pause after each bite, in lengths of the bite."""
MOST_NAMED = 50_000
"""Changed episodes that are remembered; of more, only that everything is to be compared."""
LIMIT_S = 1.0
"""Longest time for which a search waits until what was changed before it is indexed."""


class Indexer:
    """The background work on one index."""

    def __init__(self, database: Database, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.file = IndexFile(path)
        self.usable = False
        """Whether there is an index to search in."""
        self.trouble = "it is being opened"
        """Why there is none."""
        self._database = database
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, "upturn-index")
        self._named: dict[str, None] = {}
        """Changed episodes that are not read yet, the longest waiting first."""
        self._wrong: dict[str, None] = {}
        """Episodes about which the comparison found the index to be wrong."""
        self._below: str | None = None
        """The comparison has come down to this id; an empty one has just begun, None has ended."""
        self._again = True
        """Another comparison is to follow."""
        self._compare_at = 0.0
        self._unknown = 0
        """Episodes that the comparison has yet to reach and that the index may lack."""
        self._suspect = False
        self._failures = 0
        """Errors since something succeeded."""
        self._purge: int | None = None
        """Pages to merge next, so that words of removed episodes leave the disk; negative begins, None is done."""
        self._to_compact = False
        self._compacted_at = float("-inf")
        self._wake = asyncio.Event()
        self._tried = asyncio.Event()
        """Set once it is known whether there is an index."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin with a comparison."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop; a bite in progress is finished."""
        await end(self._task)
        self.usable = False
        with suppress(RuntimeError):  # It is closed already.
            await self._in_thread(self.file.close)
        self._thread.shutdown(wait=False)

    def touch(self, episode_id: str) -> None:
        """Remember that an episode has changed."""
        if len(self._named) >= MOST_NAMED:
            self._named.clear()
            self._again = True
        self._named[episode_id] = None
        self._wake.set()

    def compare_soon(self) -> None:
        """Compare everything: many episodes may have changed."""
        self._again = True
        self._wake.set()

    @property
    def missing(self) -> int:
        """Episodes whose newest state the index may lack."""
        return len(self._named) + len(self._wrong) + self._unknown

    async def catch_up(self, limit_s: float = LIMIT_S) -> bool:
        """Index what was changed until now, but wait no longer than `limit_s`; return whether there is an index."""
        deadline = self._clock() + limit_s
        with suppress(TimeoutError):
            await asyncio.wait_for(self._tried.wait(), limit_s)
            while self.usable and self._named and (left := deadline - self._clock()) > 0:
                await asyncio.wait_for(self._guarded(partial(self._bite, self._named)), left)
        return self.usable

    async def fresh(self) -> None:
        """Compare and index everything, without pauses.

        Raises:
            Unusable: there can be no index now.
        """
        self._again = True
        for _ in range(2):  # A file that was deleted or damaged meanwhile is noticed by the first error.
            while more := await self._guarded(self._step):
                pass
            if more is not None:
                return
        raise Unusable("the index of episodes cannot be written: see the server's log")

    async def forget(self, episode_ids: Iterable[str]) -> None:
        """Remove erased episodes, and their text from the disk; if that fails, the file is deleted."""
        ids = list(episode_ids)
        for episode_id in ids:
            self._named.pop(episode_id, None)
        try:
            await self._in_thread(partial(self._forget, ids))
        except RuntimeError:  # The server stops: the comparison at the next start removes them.
            log.warning("%d erased episodes stay in the index of episodes until the server starts again", len(ids))
        self._wake.set()

    def failed(self, error: Exception) -> None:
        """Take note of a failed read of the index, from any thread: it is checked, and perhaps built anew."""
        log.warning("the index of episodes cannot be read: %s", error)
        self.usable, self._suspect, self.trouble = False, True, "it is being checked"
        if self._task is not None:
            self._task.get_loop().call_soon_threadsafe(self._wake.set)

    async def _run(self) -> None:
        """Work, rest, and wait, until the server stops."""
        while True:
            began = self._clock()
            more = await self._guarded(self._step)
            self._tried.set()
            if more is None:
                await asyncio.sleep(AGAIN_S if self._failures > 1 else SOON_S)
            elif more:
                await asyncio.sleep(REST * (self._clock() - began))
            else:
                self._wake.clear()
                try:
                    await asyncio.wait_for(self._wake.wait(), max(SOON_S, self._compare_at - self._clock()))
                    await asyncio.sleep(SOON_S)
                except TimeoutError:
                    self._again = True

    async def _guarded(self, work: Callable[[], bool]) -> bool | None:
        """Work in the thread; return whether there is more to do, or None after an error."""
        try:
            return await self._in_thread(work)
        except Unusable as error:
            self._trouble(f"there can be no index of episodes: {error}")
        except (sqlite3.Error, OSError) as error:
            self._suspect = True
            self._trouble(f"the index of episodes failed: {error}")
        except BROKEN as error:
            self._trouble(f"the record cannot be read for the index of episodes ({type(error).__name__})")
        except Exception as error:
            log.exception("the index of episodes cannot take what is recorded")
            self._trouble(f"the index of episodes cannot take what is recorded ({type(error).__name__})")
        return None

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, work))

    def _trouble(self, said: str) -> None:
        log.warning("%s; it is tried again", said)
        self.trouble = said
        self.usable, self._again = False, True  # Something may be lost, so everything is compared afterwards.
        self._failures += 1

    def _step(self) -> bool:
        """Do the next piece of work; return whether there is more."""
        if not self.usable:
            self._open()
        elif self._named:
            self._bite(self._named)
        elif self._wrong:
            self._bite(self._wrong, anew=True)
        elif self._below is not None or self._again:
            self._compare()
        elif self._purge is not None:
            self._merge()
        elif self._may_compact():
            self._compact()
        waiting = self._named or self._wrong or self._again
        return bool(waiting) or self._below is not None or self._purge is not None or self._may_compact()

    def _open(self) -> None:
        self.file.open(suspect=self._suspect)
        with self._database.read() as session, self.file.read() as index:
            recorded_episodes = session.scalar(sa.select(sa.func.count()).select_from(EpisodeRow)) or 0
            (known,) = index.execute("SELECT count(*) FROM episode").fetchone()
        self._unknown = max(0, recorded_episodes - known)
        self._wrong.clear()
        self._below, self._again, self._suspect, self.usable = None, True, False, True

    def _bite(self, waiting: dict[str, None], anew: bool = False) -> bool:
        """Read some of the waiting episodes; return whether there are more."""
        ids = list(waiting)[:BITE]
        for episode_id in ids:
            waiting.pop(episode_id, None)
        try:
            with self._database.read() as session:
                found = recorded(session, EpisodeRow.id.in_(ids))
                with self.file.write() as index:
                    write_episodes(session, index, found, anew=anew)
                    remove_episodes(index, set(ids) - {episode.row.id for episode in found})
        except BaseException:
            waiting.update(dict.fromkeys(ids))
            raise
        self._failures = 0
        return bool(waiting)

    def _compare(self) -> None:
        """Compare the next episodes, the newest first, and note what is wrong about them."""
        if self._below is None:
            self._below, self._again = "", False
        below = self._below
        with self._database.read() as session:
            found = recorded(session, EpisodeRow.id < below if below else sa.true(), COMPARED)
            last = found[-1].row.id if len(found) == COMPARED else ""
            with self.file.read() as index:
                query = "SELECT id, signature FROM episode WHERE id >= ?" + (" AND id < ?" if below else "")
                known: dict[str, str] = dict(index.execute(query, (last, below) if below else (last,)).fetchall())
            wrong = {e.row.id: None for e in found if known.get(e.row.id) != e.signature}
            self._wrong.update(wrong)
            gone = known.keys() - {episode.row.id for episode in found}
            for ids in chunks(gone):  # Two databases may sort unusual ids differently.
                gone = gone - set(session.scalars(sa.select(EpisodeRow.id).where(EpisodeRow.id.in_(ids))))
        if gone:
            self._remove(gone)
        self._unknown = max(0, self._unknown - len(wrong))
        self._below = last or None
        if not last:
            self._unknown, self._failures, self._compare_at = 0, 0, self._clock() + COMPARE_S

    def _forget(self, episode_ids: list[str]) -> None:
        for episode_id in episode_ids:
            self._wrong.pop(episode_id, None)
        try:
            if not self.usable:
                self._open()
            self._remove(episode_ids)
        except (sqlite3.Error, OSError, Unusable, *BROKEN) as error:
            log.warning("erased episodes cannot be removed from the index of episodes, so it is deleted: %s", error)
            self.usable = False
            try:
                self.file.delete()
            except OSError as worse:
                log.error("erased text may be left in %s: delete the file (%s)", self.file.path, worse)

    def _remove(self, episode_ids: Collection[str]) -> None:
        """Remove episodes: their words at once where the library can do that, otherwise by merging soon."""
        with self.file.write() as index:
            removed = remove_episodes(index, episode_ids)
        if removed:
            self._purge, self._to_compact = None if SECURE else -MERGED, True
            self.file.empty_log()

    def _may_compact(self) -> bool:
        if not self._to_compact or not self.usable:
            return False
        return self._clock() - self._compacted_at >= COMPACT_S_PER_MIB * self.file.size_bytes / 2**20

    def _compact(self) -> None:
        """Write the file anew, without traces of removed episodes."""
        self._to_compact, self._compacted_at = False, self._clock()
        try:
            self.file.compact()
        except sqlite3.OperationalError as error:  # It needs as much room on the disk again.
            log.warning("the index of episodes cannot be compacted after an erasure: %s", error)

    def _merge(self) -> None:
        with self.file.write() as index:
            before = index.total_changes
            index.execute("INSERT INTO words (words, rank) VALUES ('merge', ?)", (self._purge,))
            done = index.total_changes - before < 2
        self._purge = None if done and self._purge != -MERGED else MERGED
