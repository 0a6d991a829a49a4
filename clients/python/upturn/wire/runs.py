"""Training runs: how they are requested, claimed, shown and ended. `run_config.py` holds their config."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from upturn.wire.base import Message
from upturn.wire.run_config import RunConfig


class RunRequest(Message):
    """Request a training run."""

    config: RunConfig | None = None
    """None uses the server's configured run."""
    trigger: str = Field(default="request", max_length=100)
    """Why the run starts, for display."""


class RunClaim(Message):
    """A learner claims a run."""

    learner: str = Field(min_length=1, max_length=200)
    """Unique name of the learner process; it holds the run's lease."""
    run_id: str | None = None
    """Claim only this run; None claims the oldest queued one."""
    work_dir: str | None = Field(default=None, max_length=4096)
    """Absolute directory in which the learner writes versions; the server refuses one that it cannot read from."""


class RunRelease(Message):
    """A learner stops and gives its run back."""

    learner: str = Field(min_length=1, max_length=200)
    """The learner's name."""


class RunStep(Message):
    """The result of one learner step."""

    step: int
    horizon: int
    policy_version: int | None
    metrics: dict[str, float]
    nothing_to_learn: str | None = None
    """Why the step trained nothing; None if it trained."""


class RunFollows(Message):
    """The state that a run of a campaign continues."""

    run_id: str
    step: int
    """Number of that run's steps after which its state is continued."""


class RunView(Message):
    """A training run: one row from start to end."""

    id: str
    state: Literal["queued", "running", "paused", "done", "failed", "cancelled"]
    """`done` after the last step, or at the end of the budget, even if no step had anything to learn: `trained_steps`
    is then 0, and `reason` says why."""
    trigger: str
    config: RunConfig
    step: int
    """Finished learner steps."""
    trained_steps: int | None = None
    """Finished steps that trained; the others had nothing to learn. None from a server that does not count them."""
    reason: str | None
    """Why the run ended or is paused."""
    learner: str | None
    first_step: int = 0
    """Global learner step of the run's step 0: the steps that its campaign has behind it. 0 for a run by itself."""
    follows: RunFollows | None = None
    """The state that the run continues; None begins with the weights of `first_version` and a new optimizer."""
    attempt: int = 0
    """How often its campaign went back to an earlier state before."""
    first_version: int | None
    """Head when the run began: the weights it starts from."""
    last_version: int | None
    """The newest version that the run published."""
    gate: Literal["due", "canary", "promoted", "continued", "rejected", "void"] | None = None
    """The promotion decision on its last version: `due` until decided, `canary` while part of live traffic tries it,
    `continued` if its campaign continues from it although users keep the champion, `void` if there was nothing to
    decide; None without an evaluation plan."""
    play_id: str | None = None
    """The play that gathers the batch of the step in progress; None while the step trains."""
    precision: Literal["bfloat16", "float16", "float32"] | None = None
    """Data type in which the server's engine computes, and the learner must too; None once the run has ended."""
    created_at: float
    started_at: float | None
    ended_at: float | None
    steps: list[RunStep]


class RunList(Message):
    """All runs, newest first."""

    data: list[RunView]


class RunEnd(Message):
    """A learner reports how a run ended."""

    learner: str
    state: Literal["done", "failed"]
    reason: str = Field(max_length=10_000)
    collapsed: bool = False
    """A guard stopped it: its campaign goes back to the state behind the champion."""
