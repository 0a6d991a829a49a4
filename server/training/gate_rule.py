"""The promotion gate's rule: results in, a decision with its evidence out. Pure functions (step 13).

The gain of a task is the candidate's mean success on it minus the champion's, on the same seeds. The mean gain has a
percentile-bootstrap interval (Efron, 1979): tasks are resampled with replacement within each environment, and every
environment has the same weight. Pairing by task removes the variance of task difficulty.

The candidate is promoted unless one of the functions in `objections.py` objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from server.training.objections import OBJECTIONS
from server.training.settings import GateSettings
from upturn.wire import EnvironmentEvidence, Figures, GateEvidence, Interval

RESAMPLES = 10_000
METHOD = f"percentile bootstrap of the mean gain over tasks, paired, each environment by itself, {RESAMPLES} resamples"
RUN_METRICS = ("reference_kl", "entropy")
"""Metrics of learner steps whose mean over the run is part of the evidence."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The results of one version on the tasks of one environment."""

    evaluation_id: str
    verdicts: dict[str, list[bool]]
    """Success of each episode that has a verdict, by task."""
    episodes: int
    steps: int
    invalid_steps: int
    calls: int = 0
    bad_calls: int = 0
    latency_ms: float | None = None

    @property
    def figures(self) -> Figures:
        """The results summed up, without individual tasks."""
        verdicts = [verdict for of_task in self.verdicts.values() for verdict in of_task]
        return Figures(
            evaluation_id=self.evaluation_id,
            success_rate=sum(verdicts) / len(verdicts) if verdicts else None,
            episodes=self.episodes,
            without_verdict=self.episodes - len(verdicts),
            steps=self.steps,
            invalid_steps=self.invalid_steps,
            calls=self.calls,
            bad_calls=self.bad_calls,
            latency_ms=self.latency_ms,
        )


@dataclass(frozen=True, slots=True)
class Pair:
    """Champion and candidate on the same tasks and seeds of one environment."""

    champion: Measured
    candidate: Measured

    @property
    def gains(self) -> list[float]:
        """[T] gain of each task on which both versions have a verdict, sorted by task name."""
        before, after = self.champion.verdicts, self.candidate.verdicts
        return [
            _mean(after[task]) - _mean(before[task])
            for task in sorted(before.keys() & after.keys())
            if before[task] and after[task]
        ]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two versions, how they were compared, and their results."""

    champion: int
    candidate: int
    horizon: int
    seed: int
    """Seed of the bootstrap."""
    pairs: dict[str, Pair]
    """Results by environment."""
    metrics: dict[str, float]
    """Means of `RUN_METRICS` over the run's learner steps."""


def decide(rule: GateSettings, compared: Comparison, objections: Sequence[str] = ()) -> GateEvidence:
    """Return the decision with its evidence.

    Args:
        rule: the bounds of the objections.
        compared: the results of both versions; may be empty if the comparison failed.
        objections: reasons against promotion that are already known, such as a failed comparison.
    """
    gains = {name: pair.gains for name, pair in compared.pairs.items() if pair.gains}
    overall, each = bootstrap(list(gains.values()), rule.confidence, compared.seed) if gains else (None, [])
    intervals = dict(zip(gains, each, strict=True))
    evidence = GateEvidence(
        champion=compared.champion,
        candidate=compared.candidate,
        horizon=compared.horizon,
        method=METHOD,
        gain=overall,
        environments={
            name: EnvironmentEvidence(
                tasks=len(gains.get(name, ())),
                gain=intervals.get(name),
                champion=pair.champion.figures,
                candidate=pair.candidate.figures,
            )
            for name, pair in compared.pairs.items()
        },
        metrics=compared.metrics,
        rule=rule.model_dump(),
        objections=list(objections),
        promoted=False,
    )
    reasons = [*objections, *(reason for objects in OBJECTIONS for reason in objects(evidence, rule))]
    return evidence.model_copy(update={"objections": reasons, "promoted": not reasons})


def not_worse(evidence: GateEvidence) -> bool:
    """Return whether a campaign continues from a candidate that was not promoted: it is not known to be worse."""
    return not evidence.promoted and (evidence.gain is None or evidence.gain.high >= 0)


def bootstrap(gains: Sequence[Sequence[float]], confidence: float, seed: int) -> tuple[Interval, list[Interval]]:
    """Return the interval of the mean over environments of their mean gains, and each environment's own interval.

    Equal gains are resampled together: a multinomial draw of the counts of the distinct gains has the same distribution
    as drawing task after task, and costs a few numbers per resample.

    Args:
        gains: [E][T] gains of each environment's tasks, at least one each.
        confidence: coverage of the intervals.
        seed: of the random generator.
    """
    rng = np.random.default_rng(seed)
    means: list[npt.NDArray[np.float64]] = []
    for of_tasks in gains:
        values, counts = np.unique(np.asarray(of_tasks, dtype=np.float64), return_counts=True)
        drawn = rng.multinomial(len(of_tasks), counts / len(of_tasks), size=RESAMPLES)
        means.append(drawn @ values / len(of_tasks))
    centers = [_mean(of_tasks) for of_tasks in gains]
    return (
        _interval(_mean(centers), np.mean(means, axis=0), confidence),
        [_interval(center, drawn, confidence) for center, drawn in zip(centers, means, strict=True)],
    )


def _interval(center: float, drawn: npt.NDArray[np.float64], confidence: float) -> Interval:
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(mean=center, low=float(low), high=float(high))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
