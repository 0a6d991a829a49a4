"""The protocol of scorers, and their verdicts on episodes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Literal, Protocol

from upturn.wire import LARGEST_REWARD, EpisodeView


class BadScore(ValueError):
    """A scorer returned something that is not a score."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One scorer's verdict on one episode."""

    values: dict[int | None, float]
    """Rewards by turn; None stands for the whole episode. Empty if the scorer has no opinion."""
    reason: str | None = None
    digest: str | None = None
    """Hash of a judge's request, under which its score is stored."""
    cached: bool = False
    """Whether the score was stored by an earlier, identical request."""


class Scorer(Protocol):
    """Scores episodes; called from the event loop."""

    name: str
    concurrency: int

    @property
    def kind(self) -> Literal["function", "judge"]:
        """The kind of scorer."""
        ...

    @property
    def stuck(self) -> int:
        """Abandoned calls that have not ended; each still counts against `concurrency`."""
        ...

    async def score(self, episode: EpisodeView) -> Verdict:
        """Return the verdict on an episode. Any exception is recorded as an error, never as a reward."""
        ...

    async def close(self) -> None:
        """Release threads and connections."""
        ...


def read_values(returned: object, turns: set[int]) -> dict[int | None, float]:
    """Convert a function's return value to rewards by turn.

    Args:
        returned: a number, a dict of numbers by turn, or None.
        turns: indexes of the episode's turns.

    Raises:
        BadScore: the value has another type, a number is out of bounds, or a turn does not exist.
    """
    if returned is None:
        return {}
    if not isinstance(returned, Mapping):
        return {None: _number(returned)}
    if unknown := [
        turn for turn in returned if isinstance(turn, bool) or not isinstance(turn, int) or turn not in turns
    ]:
        raise BadScore(f"the episode has no turn {unknown[0]!r}")
    return {turn: _number(value) for turn, value in returned.items()}


def _number(value: object) -> float:
    if not isinstance(value, Real):
        raise BadScore(f"{value!r:.80} is not a number")
    number = float(value)
    if not math.isfinite(number) or abs(number) > LARGEST_REWARD:
        raise BadScore(f"{number!r} is not within {LARGEST_REWARD:g} of 0")
    return number
