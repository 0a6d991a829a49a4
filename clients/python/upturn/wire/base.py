"""The base of all messages, and the server's description of itself."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Message(BaseModel):
    """Common behavior of all messages: frozen, strict types, no unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class PartView(Message):
    """The state of one part of the server."""

    ok: bool
    state: str
    """`ok`, or what it is doing or lacking, in one or two words."""
    advice: str | None = None
    """What is wrong and what to do."""
    figures: dict[str, float] = {}


class RecentTurns(Message):
    """How many of the newest recorded turns of this process cannot be trained on."""

    recent: int
    """Turns looked at, at most 1,000."""
    untrainable: int
    share: float
    """`untrainable / recent`; 0 without turns."""
    reasons: dict[str, int]
    """Untrainable turns by reason."""
    summary: str = ""
    """The same in one sentence."""


class ServerView(Message):
    """A ready server."""

    status: Literal["ready"]
    model: str
    """The base model, as named in the settings."""
    name: str
    """Name of the policy, which agents send as `model`."""
    engine: str
    weights: Literal["full", "adapter"]
    """Kind of weights that are trained, published and swapped."""
    champion: int
    """Version that serves live traffic."""
    head: int
    """Newest trained version."""
    context_tokens: int
    """Maximum length of prompt plus answer, in tokens."""
    placement: str
    """GPU assignment of engine and learner, and their shares of its memory."""
    summary: str = "ready"
    """One sentence."""
    parts: dict[str, PartView] = {}
    """`database`, `disk`, `engine`, `learner`, and others."""
    turns: RecentTurns | None = None
