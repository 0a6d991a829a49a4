"""Reward sources and their rules, the scorers of live episodes, and what people say about episodes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from upturn.wire.base import Message

LARGEST_REWARD = 1e6
"""Bound on the absolute value of every reward, weight and cap, so that sums stay finite."""
LONGEST_COMMENT = 10_000
LONGEST_ANSWER = 100_000
"""Characters of a comment, and of an edited answer."""
ScorerName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,39}$")]


class RewardRule(Message):
    """How the rewards of one source count. In a request, omitted fields keep their values."""

    weight: float = Field(default=1.0, ge=0, le=LARGEST_REWARD, allow_inf_nan=False)
    """Factor. With 0 the source's rewards are ignored, as if they had never been given."""
    cap: float | None = Field(default=None, ge=0, le=LARGEST_REWARD, allow_inf_nan=False)
    """Cap on the absolute sum of the source's rewards in one episode, applied before the weight; None: no cap."""
    blocked: bool = False
    """Whether the source's rewards are ignored until the block is lifted."""

    @property
    def counts(self) -> bool:
        """Whether the source's rewards count."""
        return self.weight > 0 and not self.blocked


class RewardSourceView(Message):
    """A reward source: the rule that applies to it, and the rewards it has given."""

    name: str
    """Name of the source; `*` stands for all sources without a rule of their own."""
    weight: float
    cap: float | None
    blocked: bool
    set_by: Literal["settings", "api"] | None
    """Origin of the source's own rule; None if the rule of `*` applies."""
    count: int
    """Recorded rewards, including those that do not count."""
    mean: float | None
    """Mean of the raw rewards."""


class RewardSourceList(Message):
    """All sources with a rule or a reward, sorted by name."""

    data: list[RewardSourceView]


class ScorerView(Message):
    """A reward function or a judge, with its results on the recorded episodes."""

    name: str
    kind: Literal["function", "judge"]
    scored: int
    """Episodes with a verdict, including verdicts without a reward."""
    errors: int
    """Episodes whose last attempt failed."""
    given_up: int
    """Failed episodes that will not be retried."""
    last_error: str | None
    """Class and message of the latest failure."""
    last_error_at: float | None


class ScorerList(Message):
    """All scorers of this server, sorted by name."""

    data: list[ScorerView]


class FeedbackRequest(Message):
    """Say something about an episode, or about one of its turns."""

    thumb: Literal["up", "down"] | None = None
    """Also recorded as a reward of 1 or -1."""
    comment: str | None = Field(default=None, min_length=1, max_length=LONGEST_COMMENT)
    answer: str | None = Field(default=None, min_length=1, max_length=LONGEST_ANSWER)
    """What the turn should have answered; recorded as a demonstration, which `sft` can train on."""
    turn: int | None = Field(default=None, ge=0, lt=2**31)
    """Index of the turn; None for the whole episode."""
    source: str = Field(default="user", min_length=1, max_length=100)
    """Who says it; the source of the rewards."""
    key: str | None = Field(default=None, max_length=200)
    """Idempotency key: the same content under the same key is recorded once; different content is a conflict."""

    @model_validator(mode="after")
    def says_something(self) -> FeedbackRequest:
        """Check that there is something to record, and that an answer belongs to a turn."""
        if self.thumb is None and self.comment is None and self.answer is None:
            raise ValueError("set thumb, comment or answer")
        if self.answer is not None and self.turn is None:
            raise ValueError("answer needs the turn that it corrects")
        return self


class FeedbackView(Message):
    """Recorded feedback."""

    id: str
    thumb: Literal["up", "down"] | None
    comment: str | None
    answer: str | None
    turn: int | None
    source: str
    reward_id: str | None
    """The reward of the thumb."""
    demonstration_id: str | None
    """The episode that holds the edited answer as a demonstration; None also once it has been erased."""
    created_at: float
