"""Live episodes that are silent: they are closed after a while, and a conversation that returns continues in a new one.

An agent that is unaware of episodes never closes one, and a run trains on ended episodes only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from server.background import Repeated
from server.errors import Conflict, NotFound
from server.recording.episodes import Episodes
from server.recording.matching.candidates import successors
from server.store.database import Database, id_at
from server.store.tables import EpisodeRow, TurnRow

log = logging.getLogger("upturn.idle")
IDLE = "idle"
"""Reason of an episode that was closed because it was silent."""
CHUNK = 500
"""Open episodes that one query checks."""
EVERY_S = 60.0
"""Longest time between two looks, in seconds; a shorter limit is checked as often as it is long."""


@dataclass(frozen=True, slots=True)
class Ended:
    """An ended episode, as far as a new one takes it on."""

    owner: str | None
    """SHA-256 of the API key that opened it."""
    trainable: bool
    horizon: int
    metadata: dict[str, Any]
    idle: bool
    """It was closed because it was silent."""
    successor: str | None
    """The newest open episode that continues it."""


def read_ended(database: Database, episode_id: str) -> Ended | None:
    """Return an ended episode, or None if it was erased. Blocks on the database."""
    with database.read() as session:
        row = session.get(EpisodeRow, episode_id)
        if row is None:
            return None
        return Ended(
            owner=row.owner_hash,
            trainable=row.trainable,
            horizon=row.horizon,
            metadata=row.details,
            idle=row.status == "closed" and row.reason == IDLE,
            successor=session.scalars(successors(episode_id)).first(),
        )


def silent(before: float, after: str) -> sa.Select[str, bool]:
    """Return the query of open live episodes, each with whether it has had no turn since a time.

    Args:
        before: the time, in Unix seconds.
        after: only episodes with a larger id.
    """
    heard = sa.select(TurnRow.id).where(TurnRow.episode_id == EpisodeRow.id, TurnRow.id > id_at("turn", before))
    return (
        sa.select(EpisodeRow.id, ~heard.exists())
        .where(
            EpisodeRow.id > after,
            EpisodeRow.id < id_at("ep", before),
            EpisodeRow.status == "open",
            EpisodeRow.environment.is_(None),
        )
        .order_by(EpisodeRow.id)
        .limit(CHUNK)
    )


class IdleEpisodes:
    """The job that closes them; without a limit it does nothing."""

    def __init__(
        self,
        database: Database,
        episodes: Episodes,
        idle_close_s: float | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._episodes = episodes
        self._idle_close_s = idle_close_s
        self._clock = clock
        self._repeated = Repeated(self.close_silent, min(EVERY_S, idle_close_s or EVERY_S))

    def start(self) -> None:
        """Look now, and then again and again."""
        if self._idle_close_s is not None:
            self._repeated.start()

    def close(self) -> None:
        """Stop."""
        self._repeated.close()

    async def close_silent(self) -> int:
        """Close the live episodes that have been silent for too long; return how many."""
        if self._idle_close_s is None:
            return 0
        before, after, closed = self._clock() - self._idle_close_s, "", 0
        while chunk := await asyncio.to_thread(self._chunk, before, after):
            after = chunk[-1][0]
            for episode_id in [episode_id for episode_id, is_silent in chunk if is_silent]:
                with suppress(Conflict, NotFound):  # It has ended meanwhile.
                    episode = await self._episodes.get(episode_id)
                    if not episode.answering:
                        await self._episodes.end(episode, "closed", reason=IDLE)
                        closed += 1
        if closed:
            log.info("closed %d live episodes that were silent for %g s", closed, self._idle_close_s)
        return closed

    def _chunk(self, before: float, after: str) -> list[tuple[str, bool]]:
        with self._database.read() as session:
            return [(row[0], row[1]) for row in session.execute(silent(before, after))]
