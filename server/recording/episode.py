"""One open episode in memory: its counters, its recorded conversations, and the rules for further turns and steps.

The database rows are the truth; an episode that is not in memory is restored from them (`restore.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from server.errors import Conflict, HorizonReached
from server.recording.turn import Turn


@dataclass(slots=True)
class Tail:
    """The recorded end of a conversation: the last node of a turn, linked to the tail it extends."""

    node_id: int
    parent: Tail | None
    token_ids: list[int]
    """[K] ids of this turn: its new prompt tokens and its answer."""
    turn_id: str

    def path(self) -> list[int]:
        """Return [T] all recorded ids from the beginning of the conversation."""
        parts: list[list[int]] = []
        at: Tail | None = self
        while at is not None:
            parts.append(at.token_ids)
            at = at.parent
        return [token for part in reversed(parts) for token in part]


@dataclass(slots=True, weakref_slot=True, eq=False)
class Episode:
    """An open episode. There is one object for each: two would count its turns twice."""

    id: str
    environment: str | None
    task: str | None
    seed: int
    horizon: int
    policy_version: int
    purpose: str
    trainable: bool
    turns: int = 0
    """Turns that count against the horizon, including turns in progress."""
    next_index: int = 0
    """Index of the next answer; a turn with several answers uses several."""
    steps: int = 0
    tails: dict[str, Tail] = field(default_factory=dict)
    """Recorded ends of conversations by chain hash."""
    newest: str | None = None
    """Chain hash of the newest turn's end."""
    answering: dict[str, list[Turn]] = field(default_factory=dict)
    """Turns in progress by the id of the first: of each request, one for each answer that it asked for."""
    stepping: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while the environment acts."""
    ended: str | None = None
    """The final status, or None while the episode is open or its end is being written."""
    ending: asyncio.Future[None] | None = None
    """The write of its end, while it is in progress; the episode accepts nothing meanwhile."""
    unwritten: dict[str, Any] | None = None
    """The episode's row until it is handed to the writer."""
    opening: asyncio.Future[None] | None = None
    """The write of the row, until it has been awaited."""
    write: Callable[[Episode], asyncio.Future[None]] | None = None
    """Hands the row to the writer."""

    def begin_writing(self) -> None:
        """Hand the row to the writer ahead of the first turn."""
        if self.unwritten is not None and self.write is not None:
            self.opening = self.write(self)

    async def opened(self) -> None:
        """Wait until the episode's row is durable."""
        self.begin_writing()
        if self.opening is not None:
            await asyncio.shield(self.opening)
            self.opening = None

    @property
    def turns_left(self) -> int:
        """Number of turns left within the horizon."""
        return max(0, self.horizon - max(self.turns, self.steps))

    def must_be_open(self) -> None:
        """Raise `Conflict` if the episode has ended or is just ending."""
        if self.ending is not None:
            raise Conflict(f"episode {self.id} is ending", code="episode_ended")
        if self.ended is not None:
            raise Conflict(f"episode {self.id} has ended ({self.ended})", code="episode_ended")

    def begin_turn(self, answers: int = 1) -> range:
        """Count a turn against the horizon; return the indexes of its answers.

        Raises:
            HorizonReached: every turn is used.
            Conflict: the episode has ended.
        """
        self.must_be_open()
        if self.turns >= self.horizon:
            raise HorizonReached(f"episode {self.id} has used its {self.horizon} turns")
        self.turns += 1
        self.next_index += answers
        return range(self.next_index - answers, self.next_index)
