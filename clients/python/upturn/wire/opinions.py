"""What people say about an episode: thumbs, comments, and better answers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from upturn.wire.base import Message

LONGEST_COMMENT = 10_000
LONGEST_ANSWER = 100_000
"""Characters of a comment, and of an edited answer."""


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
