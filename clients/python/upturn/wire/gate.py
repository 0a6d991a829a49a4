"""The promotion gate: what is evaluated, what the figures were, and the ledger of decisions."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field, field_validator

from upturn.wire.base import Message
from upturn.wire.plans import Name, Tasks
from upturn.wire.plays import Sampling


class EvaluationPlan(Message):
    """How a run's candidate is compared with the champion: the same tasks and seeds, at the schedule's last horizon."""

    tasks: dict[str, Tasks | Name] = Field(min_length=1, max_length=100)
    """By environment its tasks, or the name of a split (`test`); choose such as no run trains on."""
    repetitions: int = Field(default=4, ge=1, le=1024)
    """Episodes per task and version."""
    tools: bool = False
    """The versions are asked with the environments' actions as tools."""
    sampling: Sampling = Sampling()
    seed: int = Field(default=1000, ge=0, lt=2**31)

    @field_validator("tasks")
    @classmethod
    def each_once(cls, tasks: dict[str, list[str] | str]) -> dict[str, list[str] | str]:
        """A task that is listed twice would count as two."""
        for environment, listed in tasks.items():
            if not isinstance(listed, str) and len(set(listed)) != len(listed):
                raise ValueError(f"a task of {environment!r} is listed twice; `repetitions` repeats tasks")
        return tasks


class Interval(Message):
    """A mean and its bootstrap interval."""

    mean: float
    low: float
    high: float


class Figures(Message):
    """What one version did on the tasks of one environment."""

    evaluation_id: str
    success_rate: float | None
    episodes: int
    without_verdict: int
    """Episodes that failed, or whose end the environment did not judge: they count as nothing, not as 0."""
    steps: int
    invalid_steps: int
    """Actions that could not be understood."""
    calls: int = 0
    """Answers that called a tool or tried to, where there were tools."""
    bad_calls: int = 0
    """Those of which no call could be read, or one without proper arguments."""
    latency_ms: float | None = None
    """Mean time of an answer."""


class EnvironmentEvidence(Message):
    """Champion and candidate in one environment."""

    tasks: int
    """Tasks on which both have a verdict."""
    gain: Interval | None
    """Candidate's success less champion's, mean over tasks."""
    champion: Figures
    candidate: Figures


class GateEvidence(Message):
    """What a decision of the gate rests on."""

    model_config = ConfigDict(allow_inf_nan=False)

    champion: int
    candidate: int
    horizon: int
    method: str
    gain: Interval | None
    """Mean over the environments' mean gains; None where there is nothing to compare."""
    environments: dict[str, EnvironmentEvidence]
    metrics: dict[str, float]
    """Means over the run's learner steps of the metrics that the rule looks at, where the run has them."""
    rule: dict[str, float | None]
    """The settings at that time."""
    objections: list[str]
    """Why the candidate was rejected; empty where it was promoted."""


class LiveFigures(Message):
    """What one version earned in live traffic, over the episodes that were compared."""

    version: int
    episodes: int
    mean_reward: float


class LiveEvidence(Message):
    """What a decision on live rewards rests on."""

    model_config = ConfigDict(allow_inf_nan=False)

    before: LiveFigures
    """The version it is compared with."""
    now: LiveFigures
    e_value: float
    """Evidence that the later version earns less, by more than is tolerated; at 1 / alpha it counts."""
    worse: bool
    method: str
    rule: dict[str, float]
    """The settings at that time."""


class PromotionRequest(Message):
    """Say why a version is made the champion by hand."""

    reason: str = Field(default="by hand", min_length=1, max_length=1000)


class PromotionView(Message):
    """A row of the ledger of champions."""

    id: int
    from_version: int | None
    """The champion before; of a `canary` and of a `reject`, the candidate."""
    to_version: int
    """The champion since."""
    action: Literal["first", "publish", "canary", "promote", "reject", "rollback"]
    reason: str
    decided_by: str | None
    """Name of a caller's key, `gate`, `canary`, `watch`, `swap`, or None in rows of older servers."""
    run_id: str | None
    """The run whose candidate the gate judged."""
    evidence: GateEvidence | LiveEvidence | None
    created_at: float


class PromotionList(Message):
    """The ledger, newest first."""

    data: list[PromotionView]
