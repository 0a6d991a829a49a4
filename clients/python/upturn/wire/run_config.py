"""The config of a training run: everything that decides what is learned, from what, and when the run ends."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from upturn.wire.algorithms import AlgorithmName, AlgorithmTraits, traits_of
from upturn.wire.base import Message
from upturn.wire.gate import EvaluationPlan
from upturn.wire.plans import LivePlan, PlayPlan
from upturn.wire.spelling import either_spelling, to_american

LEARNING_RATES = {"full": 1e-6, "adapter": 2e-5}
"""Default learning rates: the paper's, and a usual one for LoRA with a policy gradient."""


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
    """Moves to the next of `rounds` when the recorded steps call for it. Defaults chosen by this project."""

    model_config = ConfigDict(allow_inf_nan=False)

    kind: Literal["adaptive"] = "adaptive"
    rounds: list[Annotated[int, Field(ge=1, le=10_000)]] = Field(min_length=1)
    window: int = Field(default=10, ge=1, le=10_000)
    """Learner steps to average over."""
    min_gain: float = Field(default=0.01, ge=0)
    """Success has stopped rising when a window's mean exceeds the previous window's by less than this."""
    max_truncated: float = Field(default=0.9, ge=0, le=1)
    """The horizon is too short when a window's mean share of truncated episodes is above this."""


HorizonSchedule = Annotated[FixedHorizon | StepwiseHorizon | AdaptiveHorizon, Field(discriminator="kind")]


class OptimizerConfig(Message):
    """AdamW. Defaults other than `lr` are chosen by this project."""

    model_config = ConfigDict(allow_inf_nan=False)

    lr: float | None = Field(default=None, gt=0)
    """Learning rate. Default: 1e-6 for full weights (from the paper, arXiv 2509.08755), 2e-5 for an adapter."""
    warmup_steps: int = Field(default=0, ge=0)
    """Learner steps over which the learning rate rises linearly; constant afterwards."""
    weight_decay: float = Field(default=0.0, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.99, ge=0, lt=1)
    grad_clip: float = Field(default=1.0, gt=0)
    """Maximum norm of the gradient."""


class PpoConfig(Message):
    """The value head, which only `ppo` has."""

    model_config = ConfigDict(allow_inf_nan=False)

    gae_lambda: float = Field(default=1.0, ge=0, le=1)
    """Decay of the generalized advantage estimate per sampled token (default from AgentGym-RL)."""
    value_coef: float = Field(default=0.1, gt=0)
    """Weight of the value loss relative to the policy loss (default from TRL)."""
    value_lr: float = Field(default=1e-3, gt=0)
    """Learning rate of the value head, which is initialized to zero (default chosen by this project)."""


class Guards(Message):
    """Bounds that stop a run before it ruins the model; None turns one off. Defaults chosen by this project."""

    model_config = ConfigDict(allow_inf_nan=False)

    mismatch_kl: float | None = Field(default=0.5, gt=0)
    """Mean KL between engine and learner in one batch, in nats per token, with at most 10 nats for each token; checked
    before any weight changes."""
    min_entropy: float | None = Field(default=None, ge=0)
    """Mean entropy of the trained tokens, in nats."""
    max_repetition: float | None = Field(default=0.8, gt=0, le=1)
    """Share of a turn's 4-grams that occurred earlier in the same turn."""
    max_truncated: float | None = Field(default=None, gt=0, le=1)
    """Share of episodes cut by the horizon."""
    max_reference_kl: float | None = Field(default=None, gt=0)
    """KL between the policy and its reference, in nats per token; requires a KL term."""
    max_grad_norm: float | None = Field(default=None, gt=0)
    """Norm of the gradient before clipping."""
    patience: int = Field(default=5, ge=1, le=10_000)
    """Consecutive learner steps beyond a bound before the run stops; `mismatch_kl` stops it at once."""
    best_window: int = Field(default=5, ge=1, le=10_000)
    """Learner steps whose mean success decides the best version, which is served again after a stop."""


class RunBudget(Message):
    """Limits of a run, checked at each acknowledged step: reaching one ends the run as done. None is no limit."""

    model_config = ConfigDict(allow_inf_nan=False)

    steps: int | None = Field(default=None, ge=1)
    """Learner steps."""
    minutes: float | None = Field(default=None, gt=0)
    """Running time without pauses."""
    tokens: int | None = Field(default=None, ge=1)
    """Trained tokens."""


class RunConfig(Message):
    """The config of a run, stored in its row. `docs/algorithms/` explains every field.

    "Paper" is arXiv 2509.08755. Defaults without a source are chosen by this project.
    """

    model_config = ConfigDict(allow_inf_nan=False, validate_by_name=True)

    campaign: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9_.-]{0,99}$")
    """Name of the campaign that the run continues, or begins if the name is new; None is a run by itself."""
    algorithm: AlgorithmName = "grpo"
    steps: int = Field(ge=1, le=1_000_000)
    play: PlayPlan | None = None
    """What the server plays for each batch; None trains on recorded live episodes only."""
    live: LivePlan | None = None
    """Which live episodes are selected; None selects any if nothing is played, and none alongside a play."""
    schedule: HorizonSchedule = FixedHorizon(horizon=10)
    optimizer: OptimizerConfig = Field(default=OptimizerConfig(), validation_alias=either_spelling("optimizer"))
    kind: Literal["full", "adapter"] | None = None
    """Whether full weights or a LoRA adapter are trained and published. Default: what the server serves."""
    lora_rank: int = Field(default=16, ge=1, le=512)
    lora_alpha: float = Field(default=32.0, gt=0)
    max_staleness: int = Field(default=1, ge=0, lt=2**31)
    """Maximum age of an episode, in policy versions behind head; off-policy algorithms accept any age."""
    overlap: bool = False
    """Play the next step's episodes while the current step trains, so that neither side waits; the episodes are then
    one version old."""
    turn_discount: float = Field(default=1.0, gt=0, le=1)
    """Discount per later turn: below 1, an early turn receives less of the episode's reward than the last."""
    normalize_std: bool = Field(default=True, validation_alias=either_spelling("normalize_std"))
    """Divide `grpo` advantages by the group's standard deviation (arXiv 2402.03300); `dr_grpo` (arXiv 2503.20783) never
    does."""
    policy_loss: Literal["ppo", "cispo", "gspo"] = "ppo"
    """Form of the ratio: PPO's per-token clip, CISPO's clipped weight, or GSPO's per-sample ratio."""
    clip: float = Field(default=0.2, gt=0)
    """Clip range below 1 (default from the paper); GSPO's paper uses 3e-4."""
    clip_high: float | None = Field(default=None, gt=0)
    """Clip range above 1; None is `clip`. DAPO uses 0.28, GSPO 4e-4; CISPO clips only here, usually at 4."""
    loss_normalization: Literal["token", "sample", "constant"] = Field(
        default="token", validation_alias=either_spelling("loss_normalization")
    )
    """Mean over tokens (DAPO), over the means of samples (GRPO), or over samples of a fixed length (Dr. GRPO)."""
    constant_tokens: int = Field(default=1024, ge=1)
    """The fixed length of `constant`."""
    tis_cap: float = Field(default=2.0, gt=0)
    """Upper bound of the truncated importance weight between the engine's and the learner's logprobs."""
    sequence_cap: float = Field(default=3.0, ge=1)
    """A sample is dropped when its mean ratio between learner and engine leaves [1/cap, cap] (default from TRL)."""
    kl_coef: float = Field(default=0.0, ge=0)
    """Weight of the KL term against the weights the run began with (the paper's is 1e-3); 0 keeps no reference."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Whether the KL term is added to the loss or subtracted from the reward."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """Estimator of the KL (default from the paper); `k1` is usual in the reward."""
    kl_clamp: float = Field(default=10.0, gt=0)
    """Bound of `k3` at one token, in nats (default from verl and AgentGym-RL); `k1` and `k2` are not bounded."""
    entropy_coef: float = Field(default=0.0, ge=0)
    """Weight of the entropy bonus in the policy-gradient loss (the paper's is 1e-3); 0 is none."""
    reference_reset_every: int | None = Field(default=None, ge=1)
    """Learner steps between resets of the reference to the current policy; None never resets it."""
    ppo: PpoConfig = PpoConfig()
    dpo_beta: float = Field(default=0.1, gt=0)
    """DPO's temperature (default from its paper, arXiv 2305.18290)."""
    dpo_min_gap: float = Field(default=0.1, gt=0)
    """Minimum difference in reward between the episodes of a pair (default from AgentGym)."""
    evol_threshold: float = Field(default=0.0, ge=0)
    """AgentEvol imitates episodes with a reward above this (AgentGym uses 0.99 for rewards of 0 and 1)."""
    guards: Guards = Guards()
    budget: RunBudget = RunBudget()
    evaluation: EvaluationPlan | None = None
    """How the last version is evaluated for promotion; None promotes nothing, except that a single engine of full
    weights serves, and so promotes, every version."""
    minibatches: int = Field(default=1, ge=1, le=64)
    """Optimizer updates per learner step."""
    checkpoint_every: int = Field(default=10, ge=1)
    """Learner steps between checkpoints."""
    seed: int = Field(default=0, ge=0, lt=2**31)

    def resolved(self, served: Literal["full", "adapter"]) -> RunConfig:
        """Return the config with the defaults that depend on the weights that a server serves."""
        kind = self.kind or served
        optimizer = self.optimizer.model_copy(update={"lr": self.optimizer.lr or LEARNING_RATES[kind]})
        return self.model_copy(update={"kind": kind, "optimizer": optimizer})

    @property
    def lr(self) -> float:
        """The learning rate."""
        return self.optimizer.lr or LEARNING_RATES[self.kind or "full"]

    @property
    def traits(self) -> AlgorithmTraits:
        """The traits of the algorithm.

        Raises:
            ValueError: the algorithm is not registered.
        """
        return traits_of(self.algorithm)

    @model_validator(mode="before")
    @classmethod
    def read_british_keys(cls, fields: Any) -> Any:
        """Accept British keys with a warning, and refuse a key given in both spellings."""
        return to_american(fields)

    @model_validator(mode="after")
    def some_step_could_train(self) -> RunConfig:
        """Refuse a run whose every step would be skipped, a setting without effect, or a guard without a figure."""
        if self.traits.groups == "required" and self.play is not None and self.play.group_size < 2:
            raise ValueError(
                f"{self.algorithm} compares the episodes of a group, and play.group_size is "
                f"{self.play.group_size}: set it to 2 or more, or use reinforce_pp or ppo"
            )
        if self.overlap and (self.play is None or self.max_staleness < 1 or self.schedule.kind == "adaptive"):
            raise ValueError(
                "overlap needs a play, max_staleness of at least 1, and a schedule that does not depend on "
                "the previous step"
            )
        if self.entropy_coef > 0 and self.traits.off_policy:
            raise ValueError(
                f"{self.algorithm} imitates, and the entropy bonus belongs to the policy-gradient loss: leave "
                "entropy_coef at 0, or use another algorithm"
            )
        if self.guards.max_reference_kl is not None and self.kl_coef == 0:
            raise ValueError("guards.max_reference_kl needs a reference: set kl_coef above 0")
        return self
