"""Policy versions: publish, list."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from upturn.wire.base import Message


class Probe(Message):
    """The learner's own logprobs of a fixed text: what the engine must show after it loaded the version."""

    token_ids: list[int] = Field(min_length=130)
    """[T] longer than one KV block of 128, since stale blocks only show beyond it."""
    logprobs: list[float]
    """[T-1] logprob of token t+1 given tokens 0..t, at temperature 1."""


class PolicyPublish(Message):
    """Publish weights that lie on storage shared with the server."""

    run_id: str
    learner: str
    step: int = Field(ge=0, lt=2**31)
    path: str = Field(pattern=r"^[^\x00]+$", max_length=4096)
    """Absolute directory that holds `manifest.json` and the files it lists."""
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
    horizon: int | None
    champion: bool
    canary: bool = False
    """A share of live traffic tries it."""
    head: bool
    loaded: bool
    """The engine can answer with it now."""
    kept: bool = True
    """Its weights are there; with adapters `name@version` then loads it."""
    pinned: bool = False
    swap_s: float | None
    """Seconds from the publish request to serving."""
    check_mean: float | None
    """Mean absolute difference between the engine's and the learner's logprobs of the probe, in nats."""
    check_max: float | None
    created_at: float


class Ancestor(Message):
    """A version that others were trained from."""

    version: int
    run_id: str | None
    step: int | None
    """The learner step of the run that made it."""
    kept: bool
    """Its weights are there."""


class LineageEpisode(Message):
    """An episode that trained a version."""

    episode_id: str
    step: int
    advantage: float | None
    weight: float | None
    """Trained tokens; None where the learner has not said."""


class PolicyLineage(Message):
    """What a version comes from."""

    version: int
    run_id: str | None
    parents: list[Ancestor]
    """What it was trained from, and that from, back to the base."""
    episodes: list[LineageEpisode]
    """Those of the steps since the parent was published, in order, the first so many of them."""
    trained_episodes: int
    """How many these are in all."""
    erased_episodes: int
    """Episodes of these steps that have been erased since."""


class PolicyList(Message):
    """All versions, newest first."""

    data: list[PolicyView]
