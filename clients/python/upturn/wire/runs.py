"""Training runs and everything that decides one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from upturn.wire.base import Message
from upturn.wire.gate import EvaluationPlan
from upturn.wire.plans import LivePlan, PlayPlan


class FixedHorizon(Message):
    """The same horizon at every learner step."""

    kind: Literal["fixed"] = "fixed"
    horizon: int = Field(ge=1, le=10_000)


class StepwiseHorizon(Message):
    """ScalingInter-RL (arXiv 2509.08755): `rounds[min(step // every, last)]`."""

    kind: Literal["stepwise"] = "stepwise"
    rounds: list[Annotated[int, Field(ge=1, le=10_000)]] = Field(min_length=1)
    every: int = Field(ge=1, lt=2**31)


class AdaptiveHorizon(Message):
    """The next of `rounds` as soon as the recorded steps say so; the defaults are ours."""

    model_config = ConfigDict(allow_inf_nan=False)

    kind: Literal["adaptive"] = "adaptive"
    rounds: list[Annotated[int, Field(ge=1, le=10_000)]] = Field(min_length=1)
    window: int = Field(default=10, ge=1, le=10_000)
    """Learner steps that a mean is taken over."""
    min_gain: float = Field(default=0.01, ge=0)
    """Success has stopped rising where a window's mean is not so much above that of the window before."""
    max_truncated: float = Field(default=0.9, ge=0, le=1)
    """A window's mean share of truncated episodes above it: the horizon is too short."""


HorizonSchedule = Annotated[FixedHorizon | StepwiseHorizon | AdaptiveHorizon, Field(discriminator="kind")]

Algorithm = Literal[
    "grpo", "dr_grpo", "rloo", "reinforce_pp", "reinforce_pp_baseline", "ppo", "dpo", "agent_evol", "sft"
]
COMPARING = ("grpo", "dr_grpo", "rloo", "dpo")
"""Algorithms for which an episode without a group says nothing."""


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


class PpoConfig(Message):
    """PPO's value head, which no other algorithm has."""

    model_config = ConfigDict(allow_inf_nan=False)

    gae_lambda: float = Field(default=1.0, ge=0, le=1)
    """Decay of the generalised advantage estimate, a sampled token at a time (the reference's)."""
    value_coef: float = Field(default=0.1, gt=0)
    """Weight of the value's loss beside the policy's (TRL's)."""
    value_lr: float = Field(default=1e-3, gt=0)
    """Learning rate of the value head, which begins at zero (ours)."""


class Guards(Message):
    """When a run is stopped rather than a model ruined; None is off. The values are ours."""

    model_config = ConfigDict(allow_inf_nan=False)

    mismatch_kl: float | None = Field(default=0.5, gt=0)
    """Nats a token between engine and learner, in one batch: checked before any weight changes."""
    min_entropy: float | None = Field(default=None, ge=0)
    """Mean entropy of the trained tokens, in nats."""
    max_repetition: float | None = Field(default=0.8, gt=0, le=1)
    """Share of a turn's runs of four tokens that occurred in the same turn before."""
    max_truncated: float | None = Field(default=None, gt=0, le=1)
    """Share of episodes that the horizon cut."""
    max_reference_kl: float | None = Field(default=None, gt=0)
    """Nats a token between the policy and its reference; needs a KL term."""
    max_grad_norm: float | None = Field(default=None, gt=0)
    """The gradient's norm before it is clipped."""
    patience: int = Field(default=5, ge=1, le=10_000)
    """Learner steps in a row that a figure must be beyond its bound; the mismatch has no patience."""
    best_window: int = Field(default=5, ge=1, le=10_000)
    """Learner steps whose mean success names the best version, which is served again after a stop."""


class RunBudget(Message):
    """What a run may use; it ends well with the first acknowledged step that has used any of it. None is no limit."""

    model_config = ConfigDict(allow_inf_nan=False)

    steps: int | None = Field(default=None, ge=1)
    """Learner steps."""
    minutes: float | None = Field(default=None, gt=0)
    """Running time; pauses do not count."""
    tokens: int | None = Field(default=None, ge=1)
    """Trained tokens."""


class RunConfig(Message):
    """Everything that decides a run; stored in its row. `docs/algorithms/` explains every field."""

    model_config = ConfigDict(allow_inf_nan=False)

    algorithm: Algorithm = "grpo"
    steps: int = Field(ge=1, le=1_000_000)
    play: PlayPlan | None = None
    """None trains on recorded live episodes alone."""
    live: LivePlan | None = None
    """Which live episodes are taken; None takes none beside a play, and any where nothing is played."""
    schedule: HorizonSchedule = FixedHorizon(horizon=10)
    optimiser: OptimiserConfig = OptimiserConfig()
    kind: Literal["full", "adapter"] = "full"
    """What is trained and published."""
    lora_rank: int = Field(default=16, ge=1, le=512)
    lora_alpha: float = Field(default=32.0, gt=0)
    max_staleness: int = Field(default=1, ge=0, lt=2**31)
    """Oldest usable episode, in policy versions behind head."""
    overlap: bool = False
    """Play a step's episodes while the one before it is trained, one version behind, so that neither side waits."""
    turn_discount: float = Field(default=1.0, gt=0, le=1)
    """Factor for each later turn: below 1 an early turn has less of the episode's reward than the last."""
    normalise_std: bool = True
    """Divide by the group's standard deviation in `grpo`; `dr_grpo` (arXiv 2503.20783) never does."""
    policy_loss: Literal["ppo", "cispo", "gspo"] = "ppo"
    """Form of the ratio: PPO's clip of each token, CISPO's clipped weight, GSPO's ratio of a whole sample."""
    clip: float = Field(default=0.2, gt=0)
    """Clip range below 1 (the paper's); GSPO's own is 3e-4."""
    clip_high: float | None = Field(default=None, gt=0)
    """Clip range above 1; None is `clip`. DAPO's is 0.28, GSPO's 4e-4; CISPO has no other, and 4 is usual there."""
    loss_normalisation: Literal["token", "sample", "constant"] = "token"
    """Mean over tokens (DAPO), over the means of samples (GRPO), or over samples of fixed length (Dr. GRPO)."""
    constant_tokens: int = Field(default=1024, ge=1)
    """The fixed length of `constant`."""
    tis_cap: float = Field(default=2.0, gt=0)
    """Cap of the truncated importance weight between the engine's and the learner's logprobs."""
    sequence_cap: float = Field(default=3.0, ge=1)
    """A sample is dropped where its mean ratio between learner and engine leaves [1/cap, cap] (TRL's)."""
    kl_coef: float = Field(default=0.0, ge=0)
    """Weight of the KL term against the weights the run began with (the paper's is 1e-3); 0 keeps no reference."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Where the KL term stands."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """How the KL is estimated (the paper's is k3); in the reward k1 is usual."""
    kl_clamp: float = Field(default=10.0, gt=0)
    """The log ratio to the reference is held within so many nats (the reference's)."""
    reference_reset_every: int | None = Field(default=None, ge=1)
    """Learner steps after which the reference becomes the policy of that moment; None never."""
    ppo: PpoConfig = PpoConfig()
    dpo_beta: float = Field(default=0.1, gt=0)
    """DPO's temperature (its paper's)."""
    dpo_min_gap: float = Field(default=0.1, gt=0)
    """Reward by which a pair's better episode must be ahead (the reference's)."""
    evol_threshold: float = Field(default=0.0, ge=0)
    """AgentEvol imitates episodes whose reward is above it (the reference's: 0.99 where rewards are 0 or 1)."""
    guards: Guards = Guards()
    budget: RunBudget = RunBudget()
    evaluation: EvaluationPlan | None = None
    """How its last version is judged before it may stay the champion; None promotes nothing, or, where one engine of
    full weights serves all, every version."""
    minibatches: int = Field(default=1, ge=1, le=64)
    """Optimiser steps per learner step."""
    checkpoint_every: int = Field(default=10, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**31)

    @model_validator(mode="after")
    def some_step_could_train(self) -> RunConfig:
        """Refuse a run whose every step would be skipped, or whose guard has nothing to look at."""
        if self.algorithm in COMPARING and self.play is not None and self.play.group_size < 2:
            raise ValueError(
                f"{self.algorithm} compares the episodes of a group, and play.group_size is "
                f"{self.play.group_size}: set it to 2 or more, or take reinforce_pp or ppo"
            )
        if self.overlap and (self.play is None or self.max_staleness < 1 or self.schedule.kind == "adaptive"):
            raise ValueError(
                "overlap needs a play, max_staleness of at least 1, and a schedule that does not wait for "
                "the step before"
            )
        if self.guards.max_reference_kl is not None and self.kl_coef == 0:
            raise ValueError("guards.max_reference_kl needs a reference: set kl_coef above 0")
        return self


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
    state: Literal["queued", "running", "paused", "done", "failed", "cancelled"]
    trigger: str
    config: RunConfig
    step: int
    """Learner steps finished."""
    reason: str | None
    """Why it ended, or is paused."""
    learner: str | None
    first_version: int | None
    """Head when the run began: the weights it starts from."""
    last_version: int | None
    """The newest version it published."""
    gate: Literal["due", "canary", "promoted", "rejected", "void"] | None = None
    """What became of its last version: `due` until decided, `canary` while live traffic tries it, `void` where there
    was nothing to decide; None without an evaluation plan."""
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
