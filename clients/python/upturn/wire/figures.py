"""Figures over time: the learner steps of a run, the traffic of the server, and its present state."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from upturn.wire.base import Message


class EnvironmentFigures(Message):
    """The episodes of one environment in a learner step's batch."""

    episodes: int
    success_rate: float | None
    """Share of successes among the episodes with a verdict."""
    mean_reward: float | None


class StepDecision(Message):
    """A row of the ledger about the version that a learner step published."""

    id: int
    """Id of the row, as in `GET /v1/promotions`."""
    action: str
    """`publish`, `canary`, `promote`, `continue`, `reject` or `rollback` (away from this version)."""
    reason: str
    created_at: float


class LearnerStep(Message):
    """One finished learner step. A figure is None if the step or its algorithm does not have it."""

    step: int
    """Step of the run, from 0."""
    global_step: int
    """Step of the campaign: the run's `first_step` plus `step`."""
    horizon: int
    created_at: float
    """When its batch was begun."""
    policy_version: int | None
    """The version that it published."""
    episodes: int
    """Episodes that its batch considered."""
    trained_episodes: int
    """Episodes that trained it and have not been erased."""
    success_rate: float | None
    mean_reward: float | None
    truncated_share: float | None
    """Share of episodes that the horizon cut."""
    mean_turns: float | None
    entropy: float | None
    """Nats."""
    reference_kl: float | None
    """Nats per token; None without a KL term."""
    mismatch_kl: float | None
    """Between engine and learner, in nats per token."""
    fork_share: float | None
    """Share of turns of its trained episodes that did not extend the turn before them."""
    loss: float | None
    grad_norm: float | None
    lr: float | None
    trained_tokens: float | None
    train_s: float | None
    tokens_per_s: float | None
    nothing_to_learn: str | None
    """Why the step trained nothing; None if it trained."""
    environments: dict[str, EnvironmentFigures] = Field(default_factory=dict)
    """By environment; `live` for episodes without one."""
    decisions: list[StepDecision] = Field(default_factory=list)
    """What was decided about the version, oldest first."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """All metrics of the step by name, those above included."""


class RunSteps(Message):
    """The learner steps of a run, in order."""

    run_id: str
    state: str
    """The run's state."""
    algorithm: str
    campaign: str | None
    first_step: int
    """Global learner step of the run's step 0."""
    total: int
    """Learner steps that the run is to have."""
    first_version: int | None
    last_version: int | None
    data: list[LearnerStep]


class SeriesGroup(Message):
    """Episodes of one environment or version by bucket. All lists share the length B."""

    episodes: list[int]
    """[B] episodes opened."""
    success_rate: list[float | None]
    """[B] share of successes among the episodes with a verdict; None without one."""
    mean_reward: list[float | None]
    """[B] None without a rewarded episode."""


class StatsView(Message):
    """Time series of recorded episodes. All lists share the length B; episodes count where they were opened."""

    opened_from: float
    """Beginning of the first bucket, in Unix seconds."""
    opened_before: float
    """End of the last bucket."""
    bucket_s: int
    at: list[float]
    """[B] beginning of each bucket, in Unix seconds."""
    episodes: list[int]
    """[B] episodes opened."""
    live: list[int]
    """[B] of these, episodes that the server did not play."""
    errors: list[int]
    """[B] of the episodes, those that failed."""
    open: list[int]
    """[B] episodes open at the bucket's end."""
    turns: list[int]
    """[B] turns recorded in the bucket."""
    prompt_tokens: list[int]
    """[B] tokens of these turns' prompts."""
    completion_tokens: list[int]
    """[B] tokens of their answers."""
    untrainable: dict[str, list[int]]
    """Reason to [B] turns that cannot be trained on."""
    success_rate: list[float | None]
    """[B]"""
    mean_reward: list[float | None]
    """[B]"""
    environments: dict[str, SeriesGroup]
    """By environment; `live` for episodes without one."""
    versions: dict[str, SeriesGroup]
    """By the version on which the episodes were opened, such as `12`."""
    missing: int
    """Episodes that are not counted yet, since they are still being indexed."""


class Problem(Message):
    """Something that needs attention."""

    part: str
    """Part of the server, such as `disk`, `learner`, `index`, `run` or `training`."""
    severity: Literal["error", "warning"]
    """An `error` stops the server from serving or learning; a `warning` does not."""
    text: str
    """What is wrong and what to do."""


class ProcessMemory(Message):
    """Memory of one process and its children."""

    name: str
    """`server`, `engine` or `learner`."""
    resident_bytes: int
    gpu_bytes: int | None = None


class TrainingNow(Message):
    """The run in progress."""

    run_id: str
    state: str
    campaign: str | None
    night: int | None
    """Which run of its campaign it is, from 1."""
    step: int
    """Finished learner steps of the run."""
    steps: int
    global_step: int
    horizon: int | None
    """The horizon of the newest batch."""
    doing: str
    """`waits for a learner`, `plays`, `trains`, or why it is paused."""
    played: int | None = None
    """Finished episodes of the batch's play."""
    episodes: int | None = None
    """All episodes of the play."""


class NextRun(Message):
    """The run that a trigger starts next."""

    trigger: str
    at: float | None
    """Unix seconds; None if it does not depend on the time, or already waits."""
    waits_for: str
    """What must happen before it starts."""


class Trend(Message):
    """Success of a version in episodes of the last days."""

    version: int
    episodes: int
    success_rate: float | None
    mean_reward: float | None


class StatusView(Message):
    """What the server is doing, whether it is well, and whether the policy gets better."""

    at: float
    name: str
    model: str
    engine: str
    weights: Literal["full", "adapter"]
    champion: int
    head: int
    canary: int | None
    """The version that a share of live traffic tries."""
    ready: bool
    summary: str
    """One sentence."""
    problems: list[Problem]
    """The worst first; empty if all is well."""
    open_episodes: int
    turns_in_progress: int
    turns_per_s: float
    """Turns recorded in the last minute, per second."""
    prompt_tokens_per_s: float
    completion_tokens_per_s: float
    memory: list[ProcessMemory]
    training: TrainingNow | None
    """The run in progress, or the newest one that is queued or paused; None if there is none."""
    undecided_run: str | None
    """An ended run whose promotion is being decided."""
    next_run: NextRun | None
    """None without triggers."""
    trend: list[Trend]
    """The champion and the champions before it, newest first, with what their live episodes earned."""
    indexed: bool
    """Whether the index of episodes is complete: otherwise searches and `GET /v1/stats` lack some."""
