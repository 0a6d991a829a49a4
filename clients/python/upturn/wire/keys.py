"""API keys, and privacy: learner steps that trained on an episode or a key's episodes, and counts of erased ones."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from upturn.wire.base import Message

Scope = Literal["agent", "reward", "learner", "metrics", "admin"]
"""`agent` chats and acts on its own episodes, `reward` rewards the episodes of its key (without `agent`, of every key),
`learner` trains, `metrics` reads `/metrics`, `admin` may do everything."""
SourceName = Annotated[str, Field(min_length=1, max_length=100)]


class KeyCreate(Message):
    """Create an API key."""

    name: str = Field(min_length=1, max_length=200)
    """Owner of the key, for display only."""
    scopes: list[Scope] = Field(min_length=1, max_length=5)
    reward_sources: list[SourceName] | None = Field(default=None, min_length=1, max_length=100)
    """The only names under which the key may reward; None for any name that is not reserved."""
    requests_per_minute: int | None = Field(default=None, ge=1, le=1_000_000)
    """None for no limit."""
    max_concurrent: int | None = Field(default=None, ge=1, le=1_000_000)
    """Concurrent requests; a stream counts until its end. None for no limit."""

    @model_validator(mode="after")
    def sources_need_the_scope(self) -> KeyCreate:
        """Refuse a limit on something that the key may not do, or that an admin may do without limit."""
        if self.reward_sources is not None and ("reward" not in self.scopes or "admin" in self.scopes):
            raise ValueError("reward_sources needs the scope reward, without the scope admin")
        return self


class KeyView(Message):
    """An API key, without its secret."""

    id: str
    name: str
    scopes: list[Scope]
    reward_sources: list[str] | None = None
    """The only names under which it may reward; None for any name that is not reserved."""
    requests_per_minute: int | None
    max_concurrent: int | None
    created_at: float
    revoked_at: float | None


class KeyCreated(KeyView):
    """A new API key."""

    key: str
    """Shown only here; the server keeps only its hash."""


class KeyList(Message):
    """All API keys, newest first, including revoked ones."""

    data: list[KeyView]


class CallerView(Message):
    """The bearer of the key of the request."""

    name: str
    """The name of the key; `anonymous` where no key is required, the episode's id for its own key."""
    scopes: list[Scope]
    episode_id: str | None
    """The only episode on which it may act, if the key is that episode's own."""


class Erased(Message):
    """What was erased."""

    episodes: int
    """Number of erased episodes."""


class EpisodeTraining(Message):
    """A learner step whose batch contained an episode."""

    run_id: str
    step: int
    policy_version: int | None
    """Version that the step produced; None while the batch is leased."""
    advantage: float | None
    weight: float | None
    """Trained tokens; None until the learner has reported them."""


class EpisodeTrained(Message):
    """Every learner step whose batch contained the episode; empty if it was never trained."""

    data: list[EpisodeTraining]


class KeyTraining(Message):
    """A learner step whose batch contained episodes of a key."""

    run_id: str
    step: int
    policy_version: int | None
    """Version that the step produced; None while the batch is leased."""
    episodes: int
    """Number of the key's episodes in the batch."""


class KeyTrained(Message):
    """The number of a key's episodes, and every learner step whose batch contained some of them."""

    episodes: int
    data: list[KeyTraining]
