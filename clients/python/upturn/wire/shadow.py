"""Shadow answers: what a version would have said to live prompts."""

from __future__ import annotations

from typing import Any

from upturn.wire.base import Message


class ShadowView(Message):
    """A live turn, and what the newest version would have said."""

    id: str
    turn_id: str
    episode_id: str
    served_version: int | None
    served: dict[str, Any]
    """The message that was served."""
    served_tokens: int
    served_logprob: float | None
    """Mean logprob of the served answer's tokens, of the version that gave it."""
    version: int
    """Which version answered in the shadow."""
    text: str
    token_ids: list[int]
    same_tokens: int
    """How many first tokens of both answers are the same."""
    logprob: float | None
    """Mean logprob that the shadow's version gives the served answer, at temperature 1."""
    created_at: float


class ShadowList(Message):
    """The newest ones, newest first."""

    data: list[ShadowView]
