"""The promotion gate: the evaluation plan, the evidence of a decision, and the ledger of champions."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from upturn.wire.base import Message
from upturn.wire.plans import Name, Tasks
from upturn.wire.plays import Sampling


class EvaluationPlan(Message):
    """How a run's candidate and the champion are compared: on the same tasks and seeds, at the last horizon."""

    tasks: dict[str, Tasks | Name] = Field(min_length=1, max_length=100)
    """By environment: tasks, or the name of a split (`test`). Choose tasks that no run trains on."""
    repetitions: int = Field(default=4, ge=1, le=1024)
    """Episodes per task and version."""
    tools: bool = False
    """Offer the environments' actions as tools."""
    sampling: Sampling = Sampling()
    """How both versions sample."""
    seed: int = Field(default=1000, ge=0, lt=2**31)
    """Seed of the episodes, and of the bootstrap."""

    @field_validator("tasks")
    @classmethod
    def each_once(cls, tasks: dict[str, list[str] | str]) -> dict[str, list[str] | str]:
        """Refuse duplicates: a task listed twice would count as two."""
        for environment, listed in tasks.items():
            if not isinstance(listed, str) and len(set(listed)) != len(listed):
                raise ValueError(f"a task of {environment!r} is listed twice; `repetitions` repeats tasks")
        return tasks


class Interval(Message):
    """A mean and its bootstrap confidence interval."""

    mean: float
    low: float
    high: float


class Figures(Message):
    """The results of one version on the tasks of one environment."""

    evaluation_id: str
    success_rate: float | None
    episodes: int
    without_verdict: int
    """Episodes that failed or that the environment did not judge: left out, not counted as 0."""
    steps: int
    invalid_steps: int
    """Steps whose action could not be understood."""
    calls: int = 0
    """Answers that called a tool or tried to, if there were tools."""
    bad_calls: int = 0
    """Tool-calling answers with a call that could not be parsed, or without named arguments."""
    latency_ms: float | None = None
    """Mean duration of an answer."""


class EnvironmentEvidence(Message):
    """Champion and candidate in one environment."""

    tasks: int
    """Tasks on which both versions have a verdict."""
    gain: Interval | None
    """The candidate's success rate minus the champion's, mean over tasks."""
    champion: Figures
    candidate: Figures


class GateEvidence(Message):
    """A decision of the gate, and the evidence for it."""

    model_config = ConfigDict(allow_inf_nan=False)

    champion: int
    candidate: int
    horizon: int
    method: str
    gain: Interval | None
    """Mean over the environments' mean gains; None if there is nothing to compare."""
    environments: dict[str, EnvironmentEvidence]
    metrics: dict[str, float]
    """Mean over the run's learner steps of each metric that the rule bounds and the run recorded."""
    rule: dict[str, float | None]
    """The gate's settings at the time of the decision."""
    objections: list[str]
    """Why the candidate was rejected; empty if it was promoted."""
    promoted: bool
    """Whether the candidate was promoted: to champion, or first to canary."""

    @model_validator(mode="before")
    @classmethod
    def derive_promoted(cls, data: Any) -> Any:
        """Accept evidence recorded before `promoted` existed: a candidate without objections was promoted."""
        if isinstance(data, dict) and "promoted" not in data and "objections" in data:
            return {**data, "promoted": not data["objections"]}
        return data


class LiveFigures(Message):
    """Rewards of one version in live traffic, over the compared episodes."""

    version: int
    episodes: int
    mean_reward: float


class LiveEvidence(Message):
    """The evidence for a decision on live rewards."""

    model_config = ConfigDict(allow_inf_nan=False)

    before: LiveFigures
    """The version that `now` is compared with."""
    now: LiveFigures
    """The newer version: the promoted one, or the canary."""
    e_value: float
    """Evidence (e-value) that `now` earns less by more than the tolerated drop; 1 / alpha is enough to decide."""
    difference: float | None = None
    """Of a canary drawn by API key: mean change of the reward within keys, the candidate's minus the champion's."""
    worse: bool
    """Whether the evidence was enough to decide that `now` earns less."""
    method: str
    rule: dict[str, float]
    """The watch's settings at the time of the decision."""


class PromotionRequest(Message):
    """Promote a version, or roll back, by hand."""

    reason: str = Field(default="by hand", min_length=1, max_length=1000)
    """Recorded in the ledger."""


class PromotionView(Message):
    """A row of the ledger of champions."""

    id: int
    from_version: int | None
    """The previous champion; for `canary` and `reject`, the candidate."""
    to_version: int
    """The champion from then on."""
    action: Literal["first", "publish", "canary", "promote", "reject", "rollback"]
    reason: str
    decided_by: str | None
    """Name of the caller's key, `gate`, `canary`, `watch` or `swap`; None in rows written by older servers."""
    run_id: str | None
    """The run whose candidate the gate judged."""
    evidence: GateEvidence | LiveEvidence | None
    created_at: float


class PromotionList(Message):
    """The ledger, newest first."""

    data: list[PromotionView]
