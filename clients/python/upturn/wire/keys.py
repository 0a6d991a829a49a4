"""API keys, and what a server holds of the episodes that they opened: where it was trained, and that it was erased."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from upturn.wire.base import Message

Scope = Literal["agent", "learner", "admin"]
"""`agent` chats and acts on its own episodes, `learner` trains, `admin` may do everything."""


class KeyCreate(Message):
    """Create an API key."""

    name: str = Field(min_length=1, max_length=200)
    """Whose it is; for people only."""
    scopes: list[Scope] = Field(min_length=1, max_length=3)
    requests_per_minute: int | None = Field(default=None, ge=1, le=1_000_000)
    """None is no limit."""
    max_concurrent: int | None = Field(default=None, ge=1, le=1_000_000)
    """Requests at once, a stream until its end; None is no limit."""


class KeyView(Message):
    """An API key, without the key."""

    id: str
    name: str
    scopes: list[Scope]
    requests_per_minute: int | None
    max_concurrent: int | None
    created_at: float
    revoked_at: float | None


class KeyCreated(KeyView):
    """A new API key."""

    key: str
    """Shown only here; the server keeps its hash."""


class KeyList(Message):
    """All API keys, newest first, with the revoked ones."""

    data: list[KeyView]


class Erased(Message):
    """What was erased."""

    episodes: int


class EpisodeTraining(Message):
    """A learner step whose batch held an episode."""

    run_id: str
    step: int
    policy_version: int | None
    """The version that the step made; None while the batch is at the learner."""
    advantage: float | None
    weight: float | None
    """Trained tokens; None where the learner has not reported them."""


class EpisodeTrained(Message):
    """Every learner step whose batch held the episode; empty where it was never trained."""

    data: list[EpisodeTraining]


class KeyTraining(Message):
    """A learner step whose batch held episodes of a key."""

    run_id: str
    step: int
    policy_version: int | None
    """The version that the step made; None while the batch is at the learner."""
    episodes: int


class KeyTrained(Message):
    """How many episodes of a key there are, and every learner step whose batch held some of them."""

    episodes: int
    data: list[KeyTraining]
