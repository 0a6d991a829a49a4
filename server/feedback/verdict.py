"""What every scorer is, and what it says of an episode."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Literal, Protocol

from upturn.wire import LARGEST_REWARD, EpisodeView


class BadScore(ValueError):
    """A scorer's answer is no score."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one scorer says of one episode."""

    values: dict[int | None, float]
    """Rewards by turn; None is the whole episode. Empty where it has no opinion."""
    reason: str | None = None
    digest: str | None = None
    """Hash of what a judge was asked, under which its score is kept."""
    cached: bool = False


class Scorer(Protocol):
    """Scores episodes; called from the event loop."""

    name: str
    concurrency: int

    @property
    def kind(self) -> Literal["function", "judge"]:
        """Which of the two it is."""
        ...

    @property
    def stuck(self) -> int:
        """Calls that were given up and have not ended: they still take their place."""
        ...

    async def score(self, episode: EpisodeView) -> Verdict:
        """Return its verdict. Whatever it raises is an error on record, never a reward."""
        ...

    async def close(self) -> None:
        """Let go of what it holds."""
        ...


def read_values(given: object, turns: set[int]) -> dict[int | None, float]:
    """Return the rewards in what a function returned.

    Args:
        given: a number, numbers by turn, or None.
        turns: the indexes that the episode's turns have.

    Raises:
        BadScore: it is something else, a number is out of bounds, or there is no such turn.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        return {None: _number(given)}
    if unknown := [turn for turn in given if isinstance(turn, bool) or not isinstance(turn, int) or turn not in turns]:
        raise BadScore(f"the episode has no turn {unknown[0]!r}")
    return {turn: _number(value) for turn, value in given.items()}


def _number(value: object) -> float:
    if not isinstance(value, Real):
        raise BadScore(f"{value!r:.80} is not a number")
    number = float(value)
    if not math.isfinite(number) or abs(number) > LARGEST_REWARD:
        raise BadScore(f"{number!r} is not a number within {LARGEST_REWARD:g} of 0")
    return number
