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
    draw: int | None = Field(default=None, ge=2, le=10_000)
    """Number of an environment's `tasks` that a decision draws at most, anew for each run. None: all of them decide."""
    report: int = Field(default=0, ge=0, le=10_000)
    """Number of an environment's `tasks` that never decide: a promoted version plays them for the reported figure."""
    guards: dict[str, Tasks | Name] = Field(default_factory=dict, max_length=100)
    """By environment: tasks, or the name of a split, on which the candidate must not be worse. They do not count in the
    mean gain, and only a candidate that is otherwise promoted plays them."""
    rounds: int = Field(default=8, ge=1, le=100)
    """Maximum number of rounds in which tasks are played: the evaluation ends after the first that makes the decision
    clear. A round has at least 10 tasks of each environment."""
    repetitions: int = Field(default=4, ge=1, le=1024)
    """Episodes per task and version."""
    tools: bool = False
    """Offer the environments' actions as tools."""
    sampling: Sampling = Sampling()
    """How both versions sample."""
    seed: int = Field(default=1000, ge=0, lt=2**31)
    """Seed of the episodes with their sampling, and of drawing tasks; with `draw`, each run derives its own from it."""

    @field_validator("tasks", "guards")
    @classmethod
    def each_once(cls, tasks: dict[str, list[str] | str]) -> dict[str, list[str] | str]:
        """Refuse duplicates: a task listed twice would count as two."""
        for environment, listed in tasks.items():
            if not isinstance(listed, str) and len(set(listed)) != len(listed):
                raise ValueError(f"a task of {environment!r} is listed twice; `repetitions` repeats tasks")
        return tasks


class Interval(Message):
    """A mean and its confidence interval."""

    mean: float
    low: float
    high: float


class Figures(Message):
    """The results of one version on the tasks of one environment."""

    evaluation_id: str
    """The first evaluation."""
    evaluation_ids: list[str] = Field(default_factory=list)
    """All evaluations, one for each round; empty in older evidence."""
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


class GainTest(Message):
    """The test of whether the candidate is better."""

    model_config = ConfigDict(allow_inf_nan=False)

    p_value: float
    """Probability of at least this evidence for a candidate that is no better (one-sided)."""
    bound: float
    """The largest p-value that promotes after the played rounds: the part of `level` that they spend."""
    level: float
    """The level of this decision: probability of promoting a candidate that is no better."""
    spent: float
    """Sum of the levels of the decisions since the last promotion, without this one."""
    z: float
    """The mean gain in standard errors, if chance alone decided its sign."""
    rounds: int
    """Rounds of tasks that were played."""
    planned_rounds: int

    @property
    def passed(self) -> bool:
        """Whether the candidate is better at the level of the decision."""
        return self.p_value <= self.bound > 0


class Report(Message):
    """Results in one environment on tasks that no decision sees."""

    tasks: int
    champion: Figures | None
    """None with one engine of full weights: the champion is not loaded at that time."""
    candidate: Figures


class AuditFinding(Message):
    """One feature in one environment that should not rise with the reward: both versions, over the same tasks."""

    model_config = ConfigDict(allow_inf_nan=False)

    environment: str
    feature: str
    """`no_action`, `broken_calls`, `avoided_calls`, `questions`, `repetition`, `paid_failures`, `answer_tokens`,
    `turns`, or `component:NAME`."""
    tasks: int
    """Tasks on which both versions have the feature; of a feature that may rise for a good reason, with the same
    verdict."""
    champion: float
    """Mean over these tasks: tokens per turn, turns, or a share."""
    candidate: float
    rise: float
    """Mean rise over these tasks; of `answer_tokens` and `turns` relative: 0.5 is half as much again."""
    tolerated: float
    """The rise that the settings tolerate, in the same unit."""
    reward_rise: float | None = None
    """Mean rise of the reward over tasks: of `answer_tokens`, `turns` and components at the same verdict, otherwise as
    a whole. None where nothing was rewarded."""
    p_value: float
    """Probability of at least this evidence if the rise is tolerated, or is not what the reward pays for. 1 if the
    measured rise is tolerated."""
    bound: float
    """The largest p-value that is an objection: `gate.audit_level`, divided as by Holm."""
    flagged: bool
    """Whether it is an objection."""
    sentence: str = ""
    """The objection; empty if it is none."""
    episodes: list[str] = Field(default_factory=list)
    """The candidate's three most telling episodes, the most telling first; empty if the measured rise is tolerated."""


class GateEvidence(Message):
    """A decision of the gate, and the evidence for it."""

    model_config = ConfigDict(allow_inf_nan=False)

    champion: int
    candidate: int
    horizon: int
    method: str
    gain: Interval | None
    """Mean over the environments' mean gains; None if there is nothing to compare."""
    test: GainTest | None = None
    """Whether that is more than chance; None if nothing could be measured, and in older evidence."""
    environments: dict[str, EnvironmentEvidence]
    guards: dict[str, EnvironmentEvidence] = Field(default_factory=dict)
    """Environments in which the candidate must not be worse; empty if something else rejected it."""
    report: dict[str, Report] = Field(default_factory=dict)
    """By environment, the results on tasks that no decision sees; only of promoted candidates."""
    metrics: dict[str, float]
    """Mean over the run's learner steps of each metric that the rule bounds and the run recorded."""
    rule: dict[str, float | None]
    """The gate's settings at the time of the decision."""
    objections: list[str]
    """Why the candidate was not promoted; empty if it was."""
    warnings: list[str] = Field(default_factory=list)
    """What limits the meaning of the figures, such as tasks that decide each time."""
    promoted: bool
    """Whether the candidate was promoted: to champion, or first to canary."""
    worse: bool = False
    """Whether the gain is below 0 at `gate.revert_confidence`: a campaign goes back to the state behind the
    champion."""
    audit: list[AuditFinding] = Field(default_factory=list)
    """What should not rise with the reward: every feature that could be compared, flagged ones first."""
    flagged: bool = False
    """Whether the audit objects: a campaign goes back to the state behind the champion."""
    continues: bool = False
    """Whether its campaign continues from the candidate, which was not promoted, since it is not known to be worse."""

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
    """The previous champion; for `canary`, `continue` and `reject`, the candidate."""
    to_version: int
    """The champion from then on."""
    action: Literal["first", "publish", "canary", "promote", "continue", "reject", "rollback"]
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


class EvaluatedEpisode(Message):
    """An episode that was played for a decision."""

    episode_id: str
    success: bool | None
    """None without a verdict."""


class PairedTask(Message):
    """The episodes of both versions on one task."""

    environment: str
    task: str
    guards: bool
    """Whether it belongs to an environment in which the candidate only must not be worse."""
    champion: list[EvaluatedEpisode]
    candidate: list[EvaluatedEpisode]

    @property
    def gain(self) -> float | None:
        """The candidate's success rate minus the champion's; None unless both have a verdict."""
        rates = [
            sum(verdicts) / len(verdicts)
            for played in (self.champion, self.candidate)
            if (verdicts := [one.success for one in played if one.success is not None])
        ]
        return rates[1] - rates[0] if len(rates) == 2 else None


class PairedTasks(Message):
    """The episodes behind a decision of the gate, by environment and task; erased ones are missing."""

    data: list[PairedTask]
