"""The promotion gate's rule: results in, a decision with its evidence out. Pure functions (step 13).

The gain of a task is the candidate's mean success on it minus the champion's, on the same seeds. Whether the mean gain
is more than chance is a test by sign flips (`sign_flips.py`), in which every environment has the same weight. Pairing
by task removes the variance of task difficulty. After each round of tasks, `is_clear` says whether the next is needed.

The candidate is promoted unless one of the functions in `objections.py` objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from server.training.judging import sign_flips
from server.training.judging.audit.episodes import EpisodeFigures
from server.training.judging.audit.rule import audit
from server.training.judging.error_budget import next_level
from server.training.objections import OBJECTIONS, unmeasured
from server.training.settings import GateSettings
from upturn.wire import EnvironmentEvidence, Figures, GainTest, GateEvidence, Interval

METHOD = "sign flips of the gains of tasks, paired, one-sided, each environment with the same weight, in rounds"
RESOLUTION = 1e-3
"""Precision of an interval's bounds, which are searched for."""
SUSPICIOUS = 0.25
"""P-value of a finding of the audit below which a decision waits for the next round, unless it is an objection
already (chosen by this project)."""
RUN_METRICS = ("reference_kl", "entropy")
"""Metrics of learner steps whose mean over the run is part of the evidence."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The results of one version on the tasks of one environment."""

    evaluation_ids: tuple[str, ...]
    verdicts: dict[str, list[bool]]
    """Success of each episode that has a verdict, by task."""
    episodes: int
    steps: int
    invalid_steps: int
    calls: int = 0
    bad_calls: int = 0
    latency_ms: float | None = None
    audited: tuple[EpisodeFigures, ...] = ()
    """Each episode's figures for the audit."""

    @property
    def figures(self) -> Figures:
        """The results summed up, without individual tasks."""
        verdicts = [verdict for of_task in self.verdicts.values() for verdict in of_task]
        return Figures(
            evaluation_id=self.evaluation_ids[0],
            evaluation_ids=list(self.evaluation_ids),
            success_rate=sum(verdicts) / len(verdicts) if verdicts else None,
            episodes=self.episodes,
            without_verdict=self.episodes - len(verdicts),
            steps=self.steps,
            invalid_steps=self.invalid_steps,
            calls=self.calls,
            bad_calls=self.bad_calls,
            latency_ms=self.latency_ms,
        )

    @staticmethod
    def merged(parts: Sequence[Measured]) -> Measured:
        """Return the results of one version on the tasks of several rounds."""
        times = [(part.latency_ms, part.steps) for part in parts if part.latency_ms is not None]
        weight = sum(steps for _, steps in times)
        return Measured(
            tuple(name for part in parts for name in part.evaluation_ids),
            {task: verdicts for part in parts for task, verdicts in part.verdicts.items()},
            sum(part.episodes for part in parts),
            sum(part.steps for part in parts),
            sum(part.invalid_steps for part in parts),
            calls=sum(part.calls for part in parts),
            bad_calls=sum(part.bad_calls for part in parts),
            latency_ms=sum(ms * steps for ms, steps in times) / weight if weight else None,
            audited=tuple(episode for part in parts for episode in part.audited),
        )


@dataclass(frozen=True, slots=True)
class Pair:
    """Champion and candidate on the same tasks and seeds of one environment."""

    champion: Measured
    candidate: Measured

    def gains(self, tasks: Iterable[str] | None = None) -> sign_flips.Values:
        """Return the [T] gain of each task on which both versions have a verdict, of these tasks or sorted by name."""
        before, after = self.champion.verdicts, self.candidate.verdicts
        return np.array(
            [
                _mean(after[task]) - _mean(before[task])
                for task in (sorted(before) if tasks is None else tasks)
                if before.get(task) and after.get(task)
            ],
            dtype=np.float64,
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two versions, how they were compared, and their results."""

    champion: int
    candidate: int
    horizon: int
    pairs: dict[str, Pair]
    """Results by environment, of all played rounds."""
    metrics: dict[str, float]
    """Means of `RUN_METRICS` over the run's learner steps."""
    rounds: Sequence[Mapping[str, Sequence[str]]] = ()
    """Tasks by environment of each planned round, played or not; empty if all tasks are one round."""
    played: int = 1
    """Number of rounds that were played."""
    spent: float = 0.0
    """Sum of the levels of the decisions since the last promotion."""
    guards: dict[str, Pair] = field(default_factory=dict)
    """Results by guard environment."""
    warnings: Sequence[str] = ()


def is_clear(rule: GateSettings, compared: Comparison) -> bool:
    """Return whether the played rounds are enough: the candidate would be promoted, or is unlikely to be."""
    if compared.played >= len(compared.rounds):
        return True
    evidence = decide(rule, compared)
    test = evidence.test
    if any(finding.p_value < SUSPICIOUS and not finding.flagged for finding in evidence.audit):
        return False
    if test is None or test.passed:
        return evidence.promoted  # An objection may disappear with more tasks.
    return sign_flips.hopeless(test.z, test.level, test.rounds, test.planned_rounds)


def decide(rule: GateSettings, compared: Comparison, objections: Sequence[str] = ()) -> GateEvidence:
    """Return the decision with its evidence.

    Args:
        rule: the bounds of the objections.
        compared: the results of both versions; may be empty if the comparison failed.
        objections: reasons against promotion that are already known, such as a failed comparison.
    """
    gains = [measured for pair in compared.pairs.values() if len(measured := pair.gains())]
    evidence = GateEvidence(
        champion=compared.champion,
        candidate=compared.candidate,
        horizon=compared.horizon,
        method=METHOD,
        gain=_interval(gains, rule.confidence) if gains else None,
        environments={name: _environment(pair, rule.confidence) for name, pair in compared.pairs.items()},
        metrics=compared.metrics,
        rule=rule.model_dump(),
        objections=list(objections),
        warnings=list(compared.warnings),
        promoted=False,
        worse=bool(gains) and _interval(gains, rule.revert_confidence).high < -RESOLUTION,
    )
    undecidable = bool(objections) or any(unmeasured(evidence, rule))
    test = None if undecidable else _test(rule, compared)
    found = [] if undecidable else audit(rule, _audited(compared))
    guards = {name: _environment(pair, rule.guard_confidence) for name, pair in compared.guards.items()}
    flagged = any(finding.flagged for finding in found)
    evidence = evidence.model_copy(update={"test": test, "guards": guards, "audit": found, "flagged": flagged})
    reasons = [*objections, *(reason for objects in OBJECTIONS for reason in objects(evidence, rule))]
    return evidence.model_copy(update={"objections": reasons, "promoted": not reasons})


def _test(rule: GateSettings, compared: Comparison) -> GainTest:
    """Return the test of the mean gain after the played rounds."""
    rounds = compared.rounds or [{name: sorted(pair.champion.verdicts) for name, pair in compared.pairs.items()}]
    counts = {name: sum(len(tasks[name]) for tasks in rounds) for name in compared.pairs}
    level = next_level(rule, compared.spent)
    cell = sign_flips.cell_of([1 / count for count in counts.values()], sum(counts.values()))
    test = sign_flips.SignFlips(level, len(rounds), cell)
    for tasks in rounds[: compared.played]:
        gains = [pair.gains(tasks[name]) - rule.min_gain for name, pair in compared.pairs.items()]
        weighted = [sign_flips.untied(of) / count for of, count in zip(gains, counts.values(), strict=True)]
        test.add(np.concatenate(weighted))
    return GainTest(
        p_value=test.outcome.p_value,
        bound=test.outcome.bound,
        level=level,
        spent=compared.spent,
        z=test.outcome.z,
        rounds=compared.played,
        planned_rounds=len(rounds),
    )


def _audited(compared: Comparison) -> dict[str, tuple[Sequence[EpisodeFigures], Sequence[EpisodeFigures]]]:
    return {name: (pair.champion.audited, pair.candidate.audited) for name, pair in compared.pairs.items()}


def _environment(pair: Pair, confidence: float) -> EnvironmentEvidence:
    gains = pair.gains()
    return EnvironmentEvidence(
        tasks=len(gains),
        gain=_interval([gains], confidence) if len(gains) else None,
        champion=pair.champion.figures,
        candidate=pair.candidate.figures,
    )


def _interval(gains: Sequence[sign_flips.Values], confidence: float) -> Interval:
    low, high = sign_flips.interval(gains, confidence)
    return Interval(mean=_mean([float(of_tasks.mean()) for of_tasks in gains]), low=low, high=high)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
