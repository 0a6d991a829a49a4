"""Erases episodes, and reports which learner steps trained on them.

Erasing an episode deletes its turns, tokens, steps, rewards, feedback, scores, shadow answers and lineage rows, also in
SQLite's write-ahead log, and what the index of episodes holds of it. The demonstrations that people wrote for its turns
repeat its conversation, so they are erased with it. Weights cannot unlearn, so each batch keeps a count of its erased
episodes: the number of episodes that a version was trained on stays correct.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.errors import Conflict, NotFound
from server.recording.episodes import Episodes
from server.recording.reading.feedback import demonstrations_of
from server.recording.transcript import trainings
from server.store.database import Database
from server.store.tables import BatchRow, EpisodeRow, RunEpisodeRow
from server.store.writer import Writer
from upturn.wire import EpisodeTrained, KeyTrained, KeyTraining

log = logging.getLogger("upturn.privacy")
LOG_TRIES, LOG_PAUSE_S = 20, 0.1
"""Attempts to empty the write-ahead log, and the pause between them: a reader keeps it for as long as it reads."""
ENDED = ("terminated", "truncated", "closed", "error")
"""Named, and not `status != 'open'`, so that the index on status and end serves the search."""
CHUNK = 20
"""Episodes erased in one transaction, so that answers wait only milliseconds for the writer."""


class Privacy:
    """Erases episodes and traces their training."""

    def __init__(self, database: Database, writer: Writer, episodes: Episodes) -> None:
        self._database = database
        self._writer = writer
        self._episodes = episodes
        self.when_erased: list[Callable[[list[str]], Awaitable[None]]] = []
        """Called with the ids of erased episodes, to remove what is derived from them."""

    async def erase(self, episode_id: str) -> None:
        """Erase one episode.

        Raises:
            NotFound: there is no such episode.
        """
        if await self._erase(EpisodeRow.id == episode_id) == 0:
            raise NotFound(f"no episode {episode_id!r}", code="episode_not_found")

    async def erase_owned(self, key_hash: str) -> int:
        """Erase every episode that a key has opened so far, including open ones; return how many."""
        return await self._erase(EpisodeRow.owner_hash == key_hash, EpisodeRow.opened_at <= time.time())

    async def erase_ended(self, before: float) -> int:
        """Erase the episodes that ended before a time (Unix seconds); return how many. Open episodes stay."""
        return await self._erase(EpisodeRow.status.in_(ENDED), EpisodeRow.closed_at < before)

    async def trained(self, episode_id: str) -> EpisodeTrained:
        """Return every learner step whose batch contained an episode.

        Raises:
            NotFound: there is no such episode.
        """

        def read() -> EpisodeTrained:
            with self._database.read() as session:
                if session.get(EpisodeRow, episode_id) is None:
                    raise NotFound(f"no episode {episode_id!r}", code="episode_not_found")
                return EpisodeTrained(data=trainings(session, episode_id))

        return await asyncio.to_thread(read)

    async def trained_of(self, key_hash: str) -> KeyTrained:
        """Return every learner step whose batch contained episodes of a key."""

        def read() -> KeyTrained:
            owned = EpisodeRow.owner_hash == key_hash
            query = (
                sa.select(BatchRow, sa.func.count())
                .join(RunEpisodeRow, RunEpisodeRow.batch_id == BatchRow.id)
                .join(EpisodeRow, EpisodeRow.id == RunEpisodeRow.episode_id)
                .where(owned)
                .group_by(BatchRow.id)
                .order_by(BatchRow.id)
            )
            with self._database.read() as session:
                episodes = session.scalar(sa.select(sa.func.count()).select_from(EpisodeRow).where(owned))
                return KeyTrained(
                    episodes=episodes or 0,
                    data=[
                        KeyTraining(
                            run_id=batch.run_id, step=batch.step, policy_version=batch.policy_version, episodes=count
                        )
                        for batch, count in session.execute(query)
                    ],
                )

        return await asyncio.to_thread(read)

    async def _erase(self, *which: sa.ColumnElement[bool]) -> int:
        erased = 0
        while chunk := await asyncio.to_thread(self._chunk, which):
            for episode_id, status in chunk:
                if status == "open":  # Ended first, so that no turn in progress is written after the row is gone.
                    with suppress(Conflict, NotFound):  # It has ended meanwhile.
                        await self._episodes.end(await self._episodes.get(episode_id), "closed", reason="erased")
            ids = [episode_id for episode_id, _ in chunk]
            gone = await self._writer.write(lambda session, ids=ids: _delete(session, ids))  # type: ignore[misc]
            erased += len(gone)
            for forget in self.when_erased:
                await forget(gone)
        if erased:
            await self._empty_log()
        return erased

    async def _empty_log(self) -> None:
        """Remove what was erased from the database's write-ahead log too."""
        for _ in range(LOG_TRIES):
            if await asyncio.to_thread(self._database.empty_log):
                return
            await asyncio.sleep(LOG_PAUSE_S)
        log.warning("erased text stays in the database's write-ahead log until its readers end and it is overwritten")

    def _chunk(self, which: tuple[sa.ColumnElement[bool], ...]) -> list[tuple[str, str]]:
        with self._database.read() as session:
            return [
                (row.id, row.status)
                for row in session.execute(sa.select(EpisodeRow.id, EpisodeRow.status).where(*which).limit(CHUNK))
            ]


def _delete(session: Session, wanted: list[str]) -> list[str]:
    """Delete episodes and the demonstrations that correct them; return which there were."""
    named = [*wanted, *demonstrations_of(session, wanted)]
    ids = list(session.scalars(sa.select(EpisodeRow.id).where(EpisodeRow.id.in_(named))))
    lineage = (
        sa.select(RunEpisodeRow.batch_id, sa.func.count())
        .where(RunEpisodeRow.episode_id.in_(ids))
        .group_by(RunEpisodeRow.batch_id)
    )
    for batch_id, count in session.execute(lineage).all():
        session.execute(
            sa.update(BatchRow).where(BatchRow.id == batch_id).values(erased_episodes=BatchRow.erased_episodes + count)
        )
    session.execute(sa.delete(EpisodeRow).where(EpisodeRow.id.in_(ids)))
    return ids
