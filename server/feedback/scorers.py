"""Scores live episodes once they have ended, in the background: reward functions and judges, each at its own pace.

What is due is found in SQL: episodes of live agents that have ended, may be trained on, and have neither a row of the
scorer's nor rewards of it. A verdict, its rewards and the judge's kept score are one transaction, so every episode
is scored once whatever dies when. A failure is a row too, tried again a few times; it is never a reward.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server import background
from server.errors import BadRequest, NotFound, Unavailable
from server.feedback.functions import RewardFunction
from server.feedback.judge import Judge
from server.feedback.settings import RewardSettings
from server.feedback.verdict import Scorer, Verdict
from server.recording.transcript import read_episode
from server.store.database import BROKEN, Database, new_id
from server.store.tables import EpisodeRow, JudgementRow, RewardRow, ScoreRow, TurnRow
from server.store.writer import Writer
from upturn.wire import RewardRequest, ScorerView

log = logging.getLogger("upturn.scorers")
LOOK_S = 60.0  # Longest pause between two looks.
PAUSE_S = 0.2  # Shortest: episodes may end in crowds.
MARGIN_S = 300.0  # An end is seen in the database this much later at most.
ATTEMPTS = 5
FIRST_RETRY_S = 60.0  # Four times as long after each further failure.
KEY = "scorer:"
"""How the idempotency keys of scorers' rewards begin."""
MOST_DETAIL = 500


class Scoring:
    """The work of one scorer."""

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
        self._key = f"{KEY}{scorer.name}"
        self._busy: dict[str, asyncio.Task[None]] = {}
        """By episode."""
        self._since = 0.0
        """Of what ended before it nothing is due that has not been tried."""
        self._not_before = 0.0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to score; what was left before comes too."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop; what was not finished is due again at the next start."""
        await background.end(self._task, *self._busy.values())
        await self.scorer.close()

    def wake(self) -> None:
        """An episode has ended."""
        self._wake.set()

    async def _run(self) -> None:
        while True:
            wait_s = LOOK_S
            try:
                wait_s = await self._look()
            except (*BROKEN, Unavailable) as error:
                log.warning("%s cannot see what is due, and looks again: %s", self.scorer.name, error)
            except Exception:
                log.exception("%s cannot see what is due, and looks again", self.scorer.name)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), max(PAUSE_S, wait_s))
                await asyncio.sleep(PAUSE_S)
            self._wake.clear()

    async def _look(self) -> float:
        """Begin what is due, as far as there is room; return how many seconds nothing more can be due by time alone."""
        now = self._clock()
        room = self.scorer.concurrency - len(self._busy) - self.scorer.stuck
        if room <= 0 or now < self._not_before:
            return LOOK_S
        limit = room + len(self._busy)
        fresh, again, next_at = await asyncio.to_thread(self._due, now, limit)
        waiting = [i for i in (*again, *fresh) if i not in self._busy]
        for episode_id in waiting[:room]:
            task = self._busy[episode_id] = asyncio.create_task(self._score(episode_id))
            task.add_done_callback(partial(self._done, episode_id))
        if len(fresh) < limit and len(waiting) <= room:
            self._since = now - MARGIN_S
        return LOOK_S if next_at is None else min(LOOK_S, max(0.0, next_at - now))

    def _due(self, now: float, limit: int) -> tuple[list[str], list[str], float | None]:
        """Return episodes never tried, newest first; those to try again; and when the next of these will be."""
        mine = sa.exists().where(ScoreRow.episode_id == EpisodeRow.id, ScoreRow.scorer == self.scorer.name)
        rewarded = sa.exists().where(
            RewardRow.episode_id == EpisodeRow.id,
            sa.or_(RewardRow.key == self._key, RewardRow.key.startswith(f"{self._key}:", autoescape=True)),
        )
        fresh = (
            sa.select(EpisodeRow.id)
            .where(
                EpisodeRow.status.in_(("closed", "truncated", "terminated")),
                EpisodeRow.closed_at > self._since,
                EpisodeRow.environment.is_(None),
                EpisodeRow.play_id.is_(None),
                EpisodeRow.trainable,
                EpisodeRow.purpose != "evaluation",
                sa.exists().where(TurnRow.episode_id == EpisodeRow.id),
                ~mine,
                ~rewarded,
            )
            .order_by(EpisodeRow.closed_at.desc())
            .limit(limit)
        )
        failed = (ScoreRow.scorer == self.scorer.name, ScoreRow.state == "error", ScoreRow.retry_at.is_not(None))
        again = (
            sa.select(ScoreRow.episode_id)
            .join(EpisodeRow, EpisodeRow.id == ScoreRow.episode_id)
            .where(*failed, ScoreRow.retry_at <= now, EpisodeRow.trainable)
            .order_by(ScoreRow.retry_at)
            .limit(limit)
        )
        with self._database.read() as session:
            return (
                list(session.scalars(fresh)),
                list(session.scalars(again)),
                session.scalar(sa.select(sa.func.min(ScoreRow.retry_at)).where(*failed, ScoreRow.retry_at > now)),
            )

    async def _score(self, episode_id: str) -> None:
        """Score one episode, and record what came of it."""
        outcome: Verdict | Exception
        try:
            episode = await asyncio.to_thread(read_episode, self._database, episode_id)
            try:
                outcome = await self.scorer.score(episode)
            except Exception as error:
                log.warning("%s fails on %s: %s", self.scorer.name, episode_id, type(error).__name__)
                outcome = error
            recorded = await self._writer.write(lambda session: self._record(session, episode_id, outcome))
        except NotFound:
            return  # It was erased meanwhile.
        except Exception as error:  # The database's failure is not the scorer's: the episode stays due.
            log.error("%s cannot record %s, and tries again: %s", self.scorer.name, episode_id, error)
            self._since, self._not_before = 0.0, self._clock() + LOOK_S
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
        """Write the row, and the rewards of a verdict; return whether that was still to do."""
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
                    key=self._key if turn is None else f"{self._key}:{turn}",
                    created_at=now,
                )
            )
            if outcome.digest is not None:
                session.merge(JudgementRow(digest=outcome.digest, value=value, created_at=now))
        return True


class Scorers:
    """All scorers of this server."""

    def __init__(
        self,
        scorers: list[Scorer],
        database: Database,
        writer: Writer,
        *,
        on_scored: Callable[[str], None],
        count: Callable[[str, str], None],
    ) -> None:
        self._database = database
        self.all = [Scoring(s, database, writer, on_scored=on_scored, count=count) for s in scorers]

    def start(self) -> None:
        """Begin to score."""
        for scoring in self.all:
            scoring.start()

    async def close(self) -> None:
        """Stop."""
        for scoring in self.all:
            await scoring.close()

    def wake(self) -> None:
        """An episode has ended."""
        for scoring in self.all:
            scoring.wake()

    def check_not_ours(self, request: RewardRequest) -> None:
        """Refuse a reward that would look like a scorer's.

        Raises:
            BadRequest: its source or its key is one of theirs.
        """
        if any(scoring.scorer.name == request.source for scoring in self.all):
            raise BadRequest(
                f"{request.source!r} is a scorer of this server, which alone gives its rewards",
                param="source",
                code="source_reserved",
            )
        if request.key is not None and request.key.startswith(KEY):
            raise BadRequest(f"keys that begin with {KEY!r} are the scorers'", param="key", code="key_reserved")

    async def views(self) -> list[ScorerView]:
        """Return how each has done."""
        return await asyncio.to_thread(self._views)

    def _views(self) -> list[ScorerView]:
        given_up = sa.func.sum(sa.case((ScoreRow.retry_at.is_(None), 1), else_=0))
        counted = sa.select(ScoreRow.scorer, ScoreRow.state, sa.func.count(), given_up).group_by(
            ScoreRow.scorer, ScoreRow.state
        )
        views = []
        with self._database.read() as session:
            counts = {(scorer, state): (count, never) for scorer, state, count, never in session.execute(counted)}
            for scorer in sorted((scoring.scorer for scoring in self.all), key=lambda scorer: scorer.name):
                errors, never = counts.get((scorer.name, "error"), (0, 0))
                last = (
                    session.scalar(
                        sa.select(ScoreRow)
                        .where(ScoreRow.scorer == scorer.name, ScoreRow.state == "error")
                        .order_by(ScoreRow.updated_at.desc())
                        .limit(1)
                    )
                    if errors
                    else None
                )
                views.append(
                    ScorerView(
                        name=scorer.name,
                        kind=scorer.kind,
                        scored=counts.get((scorer.name, "scored"), (0, 0))[0],
                        errors=errors,
                        given_up=int(never),
                        last_error_at=last.updated_at if last else None,
                        last_error=f"{last.error_class}: {last.detail}" if last else None,
                    )
                )
        return views


def make_scorers(settings: RewardSettings, database: Database) -> list[Scorer]:
    """Return the scorers of the settings. It imports modules: not for the event loop.

    Raises:
        SettingsError: a function cannot be imported, or a judge's key is not there.
    """
    return [
        *(RewardFunction(name, its) for name, its in settings.functions.items()),
        *(Judge(name, its, database) for name, its in settings.judges.items()),
    ]


def _storable(text: str | None) -> str | None:
    """Return text that every database can hold."""
    return None if text is None else text[:MOST_DETAIL].encode(errors="replace").decode().replace("\0", " ")
