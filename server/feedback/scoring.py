"""The work of one scorer: finds due episodes, scores them in the background, and records verdicts or failures.

A verdict, its rewards and the judge's stored score are one transaction, so every episode is scored exactly once, even
across crashes. A failure is recorded too and retried a few times; it is never a reward.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from sqlalchemy.orm import Session

from server import background
from server.errors import NotFound, Unavailable
from server.feedback.due import Due, read_due, reward_key
from server.feedback.verdict import Scorer, Verdict
from server.recording.transcript import read_episode
from server.store.database import BROKEN, Database, new_id
from server.store.tables import EpisodeRow, JudgementRow, RewardRow, ScoreRow
from server.store.writer import Writer

log = logging.getLogger("upturn.scorers")
CHECK_S = 60.0  # Longest pause between two checks.
PAUSE_S = 0.2  # Shortest pause: many episodes may end at once.
MARGIN_S = 300.0  # Maximum delay until an ended episode shows in the database.
ATTEMPTS = 5
FIRST_RETRY_S = 60.0  # Four times as long after each further failure.
MOST_DETAIL = 500  # Characters of a reason or an error.


class Scoring:
    """Scores due episodes with one scorer, as many at once as the scorer allows."""

    def __init__(
        self,
        scorer: Scorer,
        database: Database,
        writer: Writer,
        *,
        on_scored: Callable[[str], None],
        count: Callable[[str, str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.scorer = scorer
        self._database = database
        self._writer = writer
        self._on_scored = on_scored
        self._count = count
        self._clock = clock
        self._busy: dict[str, asyncio.Task[None]] = {}
        """By episode."""
        self._since = 0.0
        """Unix seconds: every episode that ended before this has been attempted."""
        self._not_before = 0.0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start scoring, including episodes that ended before the start."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop; unfinished episodes are due again at the next start."""
        await background.end(self._task, *self._busy.values())
        await self.scorer.close()

    def wake(self) -> None:
        """Check again soon: an episode has ended."""
        self._wake.set()

    async def _run(self) -> None:
        while True:
            wait_s = CHECK_S
            try:
                wait_s = await self._check()
            except (*BROKEN, Unavailable) as error:
                log.warning("%s cannot read which episodes are due and retries: %s", self.scorer.name, error)
            except Exception:
                log.exception("%s cannot read which episodes are due and retries", self.scorer.name)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), max(PAUSE_S, wait_s))
                await asyncio.sleep(PAUSE_S)
            self._wake.clear()

    async def _check(self) -> float:
        """Start scoring as many due episodes as possible; return the seconds until the next check."""
        now = self._clock()
        room = self.scorer.concurrency - len(self._busy) - self.scorer.stuck
        if room <= 0 or now < self._not_before:
            return CHECK_S
        limit = room + len(self._busy)
        due = await asyncio.to_thread(self._read_due, now, limit)
        waiting = [i for i in (*due.retries, *due.fresh) if i not in self._busy]
        for episode_id in waiting[:room]:
            task = self._busy[episode_id] = asyncio.create_task(self._score(episode_id))
            task.add_done_callback(partial(self._done, episode_id))
        if len(due.fresh) < limit and len(waiting) <= room:
            self._since = now - MARGIN_S
        return CHECK_S if due.next_retry_at is None else min(CHECK_S, max(0.0, due.next_retry_at - now))

    def _read_due(self, now: float, limit: int) -> Due:
        with self._database.read() as session:
            return read_due(session, self.scorer.name, ended_after=self._since, now=now, limit=limit)

    async def _score(self, episode_id: str) -> None:
        """Score one episode and record the outcome."""
        outcome: Verdict | Exception
        try:
            episode = await asyncio.to_thread(read_episode, self._database, episode_id)
            try:
                outcome = await self.scorer.score(episode)
            except Exception as error:
                log.warning("%s failed on %s: %s", self.scorer.name, episode_id, type(error).__name__)
                outcome = error
            recorded = await self._writer.write(lambda session: self._record(session, episode_id, outcome))
        except NotFound:
            return  # Erased in the meantime.
        except Exception as error:  # A database failure is not a failure of the scorer: the episode stays due.
            log.error("%s cannot record %s and retries: %s", self.scorer.name, episode_id, error)
            self._since, self._not_before = 0.0, self._clock() + CHECK_S
            return
        if recorded and isinstance(outcome, Exception):
            self._count(self.scorer.name, "error")
        elif recorded and isinstance(outcome, Verdict):
            self._count(self.scorer.name, "cached" if outcome.cached else "scored")
            self._on_scored(episode_id)

    def _done(self, episode_id: str, _task: asyncio.Task[None]) -> None:
        del self._busy[episode_id]
        self.wake()

    def _record(self, session: Session, episode_id: str, outcome: Verdict | Exception) -> bool:
        """Write the score row and a verdict's rewards; return False if the episode is gone or already scored."""
        now, name = self._clock(), self.scorer.name
        row = session.get(ScoreRow, (episode_id, name), with_for_update=True)
        if session.get(EpisodeRow, episode_id) is None or (row is not None and row.state == "scored"):
            return False
        attempts = (row.attempts if row is not None else 0) + 1
        if isinstance(outcome, Exception):
            retry_at = now + FIRST_RETRY_S * 4 ** (attempts - 1) if attempts < ATTEMPTS else None
            session.merge(
                ScoreRow(
                    episode_id=episode_id,
                    scorer=name,
                    state="error",
                    attempts=attempts,
                    retry_at=retry_at,
                    error_class=type(outcome).__name__,
                    detail=_storable(str(outcome)),
                    updated_at=now,
                )
            )
            return True
        session.merge(
            ScoreRow(
                episode_id=episode_id,
                scorer=name,
                state="scored",
                attempts=attempts,
                retry_at=None,
                error_class=None,
                detail=_storable(outcome.reason),
                updated_at=now,
            )
        )
        for turn, value in outcome.values.items():
            session.add(
                RewardRow(
                    id=new_id("rw"),
                    episode_id=episode_id,
                    turn_index=turn,
                    value=value,
                    source=name,
                    key=reward_key(name, turn),
                    created_at=now,
                )
            )
            if outcome.digest is not None:
                session.merge(JudgementRow(digest=outcome.digest, value=value, created_at=now))
        return True


def _storable(text: str | None) -> str | None:
    """Return text that every database can store."""
    return None if text is None else text[:MOST_DETAIL].encode(errors="replace").decode().replace("\0", " ")
