"""How rewards count: the rules of their sources; and who scores live episodes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from upturn.wire.base import Message

LARGEST_REWARD = 1e6
"""Bound of every reward, weight and cap: sums stay finite."""
ScorerName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,39}$")]


class RewardRule(Message):
    """How the rewards of one source count. In a request, what is left out stays as it is."""

    weight: float = Field(default=1.0, ge=0, le=LARGEST_REWARD, allow_inf_nan=False)
    """Factor; with 0 they do not count at all, as if they had not been given."""
    cap: float | None = Field(default=None, ge=0, le=LARGEST_REWARD, allow_inf_nan=False)
    """Largest absolute value, before the weight, that counts of the source's sum in one episode; None is no cap."""
    blocked: bool = False
    """They do not count until it is lifted."""

    @property
    def counts(self) -> bool:
        """Whether the source's rewards count."""
        return self.weight > 0 and not self.blocked


class RewardSourceView(Message):
    """A source of rewards: the rule that holds for it, and what it has given."""

    name: str
    """`*` is every source without a rule of its own."""
    weight: float
    cap: float | None
    blocked: bool
    set_by: Literal["settings", "api"] | None
    """Where its own rule comes from; None where it has none, and that of `*` holds."""
    count: int
    """Recorded rewards, whether they count or not."""
    mean: float | None
    """Their mean as they were given."""


class RewardSourceList(Message):
    """All sources that have a rule or have given a reward, by name."""

    data: list[RewardSourceView]


class ScorerView(Message):
    """A reward function or a judge, and how it has done with the episodes that are in the record."""

    name: str
    kind: Literal["function", "judge"]
    scored: int
    """Episodes it has a verdict on, one without a reward included."""
    errors: int
    """Episodes on which it last failed."""
    given_up: int
    """Those of them that are not tried again."""
    last_error: str | None
    """Class and text of the newest failure among them."""
    last_error_at: float | None


class ScorerList(Message):
    """All scorers of this server, by name."""

    data: list[ScorerView]
