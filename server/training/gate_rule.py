"""The promotion gate's rule: results in, a decision with its evidence out. Pure functions (step 13).

The gain of a task is the candidate's mean success on it minus the champion's, on the same seeds. The mean gain has a
percentile-bootstrap interval (Efron, 1979): tasks are resampled with replacement within each environment, and every
environment has the same weight. Pairing by task removes the variance of task difficulty.

The candidate is promoted if no function in `OBJECTIONS` objects. To add an objection, write one function below and
decorate it with `@objection`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from server.training.settings import GateSettings
from upturn.wire import EnvironmentEvidence, Figures, GateEvidence, Interval

RESAMPLES = 10_000
METHOD = f"percentile bootstrap of the mean gain over tasks, paired, each environment by itself, {RESAMPLES} resamples"
RUN_METRICS = ("reference_kl", "entropy")
"""Metrics of learner steps whose mean over the run is part of the evidence."""

Objection = Callable[[GateEvidence, GateSettings], Iterator[str]]
"""Yields the reasons against promoting the candidate: (evidence so far, settings) -> one sentence each."""
OBJECTIONS: list[Objection] = []
"""All objections, in the order in which the decision lists them."""


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
        """The results without the single tasks."""
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
        compared: what was measured; may be empty if the comparison failed.
        objections: reasons against promotion known before, such as a failed comparison.
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
    found = [*objections, *(text for objects in OBJECTIONS for text in objects(evidence, rule))]
    return evidence.model_copy(update={"objections": found, "promoted": not found})


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


def too_few_verdicts(rule: GateSettings, name: str, version: int, figures: Figures) -> Iterator[str]:
    """Object if too many of a version's episodes in an environment have no verdict to decide anything."""
    if figures.without_verdict > rule.max_errors * figures.episodes:
        yield (
            f"{name}: {figures.without_verdict} of {figures.episodes} episodes of version {version} have no verdict, "
            f"more than {rule.max_errors:.0%}"
        )


def objection(function: Objection) -> Objection:
    """Register a function as the last objection."""
    OBJECTIONS.append(function)
    return function


@objection
def episodes_lack_verdicts(evidence: GateEvidence, rule: GateSettings) -> Iterator[str]:
    """Too many episodes of either version failed or were not judged (`max_errors`)."""
    for name, found in evidence.environments.items():
        yield from too_few_verdicts(rule, name, evidence.champion, found.champion)
        yield from too_few_verdicts(rule, name, evidence.candidate, found.candidate)


@objection
def too_few_tasks(evidence: GateEvidence, rule: GateSettings) -> Iterator[str]:
    """An environment has fewer than `min_tasks` tasks with a verdict on both versions."""
    for name, found in evidence.environments.items():
        if found.tasks < rule.min_tasks:
            yield f"{name}: {found.tasks} tasks have a verdict on both versions, {rule.min_tasks} are needed"


@objection
def an_environment_lost(evidence: GateEvidence, rule: GateSettings) -> Iterator[str]:
    """The mean success in an environment fell by more than `margin`."""
    for name, found in evidence.environments.items():
        if found.gain is not None and found.gain.mean < -rule.margin:
            yield f"{name}: success changed by {found.gain.mean:+.3f}, the allowed fall is {rule.margin:g}"


@objection
def more_invalid_steps(evidence: GateEvidence, rule: GateSettings) -> Iterator[str]:
    """The share of steps that could not be understood rose by more than `max_invalid_rise` in an environment."""
    for name, found in evidence.environments.items():
        before, after = _invalid_share(found.champion), _invalid_share(found.candidate)
        if after > before + rule.max_invalid_rise:
            yield f"{name}: {after:.1%} of the steps could not be understood, {before:.1%} of the champion's"


@objection
def more_bad_tool_calls(evidence: GateEvidence, rule: GateSettings) -> Iterator[str]:
    """The share of bad tool calls rose by more than `max_tool_error_rise`, if both versions called tools."""
    for name, found in evidence.environments.items():
        champion, candidate = found.champion, found.candidate
        if rule.max_tool_error_rise is None or not champion.calls or not candidate.calls:
            continue
        before, after = champion.bad_calls / champion.calls, candidate.bad_calls / candidate.calls
        if after > before + rule.max_tool_error_rise:
            yield f"{name}: {after:.1%} of the tool calls could not be parsed, {before:.1%} of the champion's"


@objection
def slower_answers(evidence: GateEvidence, rule: GateSettings) -> Iterator[str]:
    """The mean duration of an answer is more than `max_latency_ratio` times the champion's, if both were measured."""
    for name, found in evidence.environments.items():
        before, after = found.champion.latency_ms, found.candidate.latency_ms
        if rule.max_latency_ratio is None or not before or after is None:
            continue
        if after / before > rule.max_latency_ratio:
            yield (
                f"{name}: an answer takes {after:.0f} ms, {after / before:.2f} times the champion's; at most "
                f"{rule.max_latency_ratio:g} times is allowed"
            )


@objection
def nothing_measured(evidence: GateEvidence, _: GateSettings) -> Iterator[str]:
    """There is no comparison, and no other reason for that is known."""
    if not evidence.environments and not evidence.objections:
        yield "nothing was measured"


@objection
def gain_not_certain(evidence: GateEvidence, rule: GateSettings) -> Iterator[str]:
    """The lower bound of the mean gain's interval is not above `min_gain`."""
    gain = evidence.gain
    if gain is not None and gain.low <= rule.min_gain:
        yield (
            f"the mean gain is {gain.mean:+.3f} with a {rule.confidence:.0%} interval from {gain.low:+.3f} to "
            f"{gain.high:+.3f}: its lower bound is not above {rule.min_gain:g}"
        )


@objection
def run_metrics_out_of_bounds(evidence: GateEvidence, rule: GateSettings) -> Iterator[str]:
    """The run's mean `reference_kl` is above `max_kl`, or its mean `entropy` below `min_entropy`."""
    kl, entropy = evidence.metrics.get("reference_kl"), evidence.metrics.get("entropy")
    if rule.max_kl is not None and kl is not None and kl > rule.max_kl:
        yield f"the run's mean reference_kl is {kl:.4g}, at most {rule.max_kl:g} is allowed"
    if rule.min_entropy is not None and entropy is not None and entropy < rule.min_entropy:
        yield f"the run's mean entropy is {entropy:.4g}, at least {rule.min_entropy:g} is needed"


def _interval(center: float, drawn: npt.NDArray[np.float64], confidence: float) -> Interval:
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(mean=center, low=float(low), high=float(high))


def _invalid_share(figures: Figures) -> float:
    return figures.invalid_steps / figures.steps if figures.steps else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
