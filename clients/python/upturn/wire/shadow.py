"""Shadow answers: a version's answers to live prompts, recorded and never served."""

from __future__ import annotations

from typing import Any

from upturn.wire.base import Message


class ShadowView(Message):
    """A live turn, and the answer of the version that was head at the time."""

    id: str
    turn_id: str
    episode_id: str
    served_version: int | None
    """The version whose answer was served."""
    served: dict[str, Any]
    """The message that was served."""
    served_tokens: int
    """Tokens of the served answer."""
    served_logprob: float | None
    """Mean logprob of the served answer's tokens, by the version that sampled it, in nats."""
    version: int
    """The version of the shadow answer."""
    text: str
    """The shadow answer."""
    token_ids: list[int]
    """[T] token ids of the shadow answer."""
    same_tokens: int
    """Length of the common prefix of both answers, in tokens."""
    logprob: float | None
    """Mean logprob of the served answer by the shadow's version, at temperature 1, in nats."""
    created_at: float


class ShadowList(Message):
    """The newest shadow answers, newest first."""

    data: list[ShadowView]
