"""Training runs and everything that decides one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from clients.wire.base import Message
from clients.wire.plays import Sampling


class FixedHorizon(Message):
    """The same horizon at every learner step."""

    kind: Literal["fixed"] = "fixed"
    horizon: int = Field(ge=1, le=10_000)


class StepwiseHorizon(Message):
    """ScalingInter-RL (arXiv 2509.08755): `rounds[min(step // every, last)]`."""

    kind: Literal["stepwise"] = "stepwise"
    rounds: list[Annotated[int, Field(ge=1, le=10_000)]] = Field(min_length=1)
    every: int = Field(ge=1, lt=2**31)


HorizonSchedule = Annotated[FixedHorizon | StepwiseHorizon, Field(discriminator="kind")]


class PlayPlan(Message):
    """What the server plays to fill each batch of a run."""

    environment: str
    tasks: list[str] = Field(min_length=1, max_length=10_000)
    """Tasks to choose from; a step takes `groups` of them in a seeded order without repetition."""
    groups: int = Field(default=8, ge=1, le=1000)
    group_size: int = Field(default=8, ge=1, le=1024)
    agent: Literal["policy", "oracle"] = "policy"
    sampling: Sampling = Sampling()


class OptimiserConfig(Message):
    """AdamW."""

    model_config = ConfigDict(allow_inf_nan=False)

    lr: float = Field(default=1e-6, gt=0)
    """Learning rate; the default is the paper's."""
    warmup_steps: int = Field(default=0, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.99, ge=0, lt=1)
    grad_clip: float = Field(default=1.0, gt=0)


class RunConfig(Message):
    """Everything that decides a run; stored in its row."""

    model_config = ConfigDict(allow_inf_nan=False)

    algorithm: Literal["grpo", "sft"] = "grpo"
    steps: int = Field(ge=1, le=1_000_000)
    play: PlayPlan | None = None
    """None trains on recorded live episodes alone."""
    schedule: HorizonSchedule = FixedHorizon(horizon=10)
    optimiser: OptimiserConfig = OptimiserConfig()
    kind: Literal["full", "adapter"] = "full"
    """What is trained and published."""
    lora_rank: int = Field(default=16, ge=1, le=512)
    lora_alpha: float = Field(default=32.0, gt=0)
    max_staleness: int = Field(default=1, ge=0, lt=2**31)
    """Oldest usable episode, in policy versions behind head."""
    tis_cap: float = Field(default=2.0, gt=0)
    """Cap of the truncated importance weight between the engine's and the learner's logprobs."""
    clip: float = Field(default=0.2, gt=0)
    """PPO's clip range (the paper's)."""
    kl_coef: float = Field(default=0.0, ge=0)
    """Weight of the k3 KL term against the weights the run began with (the paper's is 1e-3); 0 keeps no reference."""
    normalise_std: bool = True
    """True is GRPO's advantage; False is Dr. GRPO's (arXiv 2503.20783)."""
    minibatches: int = Field(default=1, ge=1, le=64)
    """Optimiser steps per learner step."""
    checkpoint_every: int = Field(default=10, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**31)


class RunRequest(Message):
    """Ask for a training run."""

    config: RunConfig | None = None
    """None takes the server's configured run."""
    trigger: str = Field(default="request", max_length=100)


class RunClaim(Message):
    """A learner asks for the run it shall do."""

    learner: str = Field(min_length=1, max_length=200)
    """Unique name of the learner process; it holds the run's lease."""
    run_id: str | None = None
    """Only this run; None takes the oldest queued one."""


class RunStep(Message):
    """What one learner step showed."""

    step: int
    horizon: int
    policy_version: int | None
    metrics: dict[str, float]


class RunView(Message):
    """A training run: one row from start to end."""

    id: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    trigger: str
    config: RunConfig
    step: int
    """Learner steps finished."""
    reason: str | None
    """Why it ended."""
    learner: str | None
    first_version: int | None
    """Head when the run began: the weights it starts from."""
    last_version: int | None
    """The newest version it published."""
    created_at: float
    started_at: float | None
    ended_at: float | None
    steps: list[RunStep]


class RunList(Message):
    """All runs, newest first."""

    data: list[RunView]


class RunEnd(Message):
    """The learner reports how a run ended."""

    learner: str
    state: Literal["done", "failed"]
    reason: str = Field(max_length=10_000)
