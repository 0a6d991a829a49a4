"""Policy versions: publish, list, lineage."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from upturn.wire.base import Message


class Probe(Message):
    """The learner's own logprobs of a fixed text, which the engine must reproduce after loading the version."""

    token_ids: list[int] = Field(min_length=130)
    """[T] token ids, more than one KV block of 128: stale blocks only show beyond the first."""
    logprobs: list[float]
    """[T-1] logprob of token t+1 given tokens 0..t, at temperature 1, in nats."""


class PolicyPublish(Message):
    """Publish weights from storage that learner and server share."""

    run_id: str
    learner: str
    step: int | None = Field(default=None, ge=0, lt=2**31)
    """Learner step of the run; None for the state with which a run of a campaign begins."""
    path: str = Field(pattern=r"^[^\x00]+$", max_length=4096)
    """Absolute path of the directory with `manifest.json` and the files it lists."""
    manifest_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    probe: Probe


class PolicyView(Message):
    """One policy version."""

    name: str
    version: int
    id: str
    """`name@version`."""
    kind: Literal["base", "full", "adapter"]
    path: str
    manifest_sha256: str | None
    parent: int | None
    run_id: str | None
    step: int | None
    """The learner step of the run that produced it."""
    horizon: int | None
    """The horizon of that learner step, in turns."""
    champion: bool
    canary: bool = False
    """A share of live traffic gets it."""
    head: bool
    loaded: bool
    """The engine can answer with it now."""
    kept: bool = True
    """Its weights are on disk; with adapters, calling `name@version` loads it."""
    pinned: bool = False
    """Its weights are never deleted, and the watch does not roll it back."""
    swap_s: float | None
    """Seconds from the publish request to serving."""
    check_mean: float | None
    """Mean absolute difference between the engine's and the learner's logprobs of the probe, in nats."""
    check_max: float | None
    """Maximum of the same, in nats."""
    created_at: float


class Ancestor(Message):
    """A version that a later version was trained from."""

    version: int
    run_id: str | None
    step: int | None
    """The learner step of the run that produced it."""
    kept: bool
    """Its weights are on disk."""


class LineageEpisode(Message):
    """An episode that trained a version."""

    episode_id: str
    step: int
    advantage: float | None
    weight: float | None
    """Trained tokens; None until the learner has reported them."""


class PolicyLineage(Message):
    """The ancestors of a version, and the episodes that trained it."""

    version: int
    run_id: str | None
    parents: list[Ancestor]
    """Its parent, the parent's parent, and so on back to the base."""
    episodes: list[LineageEpisode]
    """Episodes of the learner steps since the parent was published, in order, up to the requested limit."""
    trained_episodes: int
    """Number of such episodes, beyond the limit too."""
    erased_episodes: int
    """Episodes of these learner steps that have been erased since."""


class PolicyList(Message):
    """All versions, newest first."""

    data: list[PolicyView]


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
