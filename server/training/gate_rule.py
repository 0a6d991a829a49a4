"""The promotion gate's rule: figures in, a decision with its evidence out. Pure functions (step 13).

The gain of a task is the candidate's mean success on it less the champion's, on the same seeds. Its mean over tasks has
a percentile-bootstrap interval (Efron, 1979): tasks are drawn again with replacement, in each environment by itself,
and every environment counts the same. Pairing by task takes out how hard the tasks are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from server.training.settings import GateSettings
from upturn.wire import EnvironmentEvidence, Figures, GateEvidence, Interval

RESAMPLES = 10_000
METHOD = f"percentile bootstrap of the mean gain over tasks, paired, each environment by itself, {RESAMPLES} resamples"
LOOKED_AT = ("reference_kl", "entropy")  # Metrics of learner steps that the rule has bounds for.


@dataclass(frozen=True, slots=True)
class Measured:
    """What one version did on the tasks of one environment."""

    evaluation_id: str
    verdicts: dict[str, list[bool]]
    """By task: success of the episodes that have a verdict."""
    episodes: int
    steps: int
    invalid_steps: int
    calls: int = 0
    bad_calls: int = 0
    latency_ms: float | None = None

    @property
    def figures(self) -> Figures:
        """The same without its tasks."""
        verdicts = [verdict for found in self.verdicts.values() for verdict in found]
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
    """Two versions on the same tasks and seeds of one environment."""

    champion: Measured
    candidate: Measured

    @property
    def gains(self) -> list[float]:
        """[T] gain of each task on which both have a verdict, by its name."""
        before, after = self.champion.verdicts, self.candidate.verdicts
        return [
            _mean(after[task]) - _mean(before[task])
            for task in sorted(before.keys() & after.keys())
            if before[task] and after[task]
        ]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is compared: the versions, how, and their figures by environment."""

    champion: int
    candidate: int
    horizon: int
    seed: int
    """Of the bootstrap."""
    pairs: dict[str, Pair]
    metrics: dict[str, float]
    """Means over the run's learner steps."""


def bootstrap(gains: Sequence[Sequence[float]], confidence: float, seed: int) -> tuple[Interval, list[Interval]]:
    """Return the interval of the mean of the environments' means, and each environment's own.

    Draws of equal gains are counted together: a multinomial draw of the counts of the distinct gains is the same as
    drawing task after task, at the cost of a few numbers for each resample.
    """
    rng = np.random.default_rng(seed)
    means: list[npt.NDArray[np.float64]] = []
    for of_tasks in gains:
        values, counts = np.unique(np.asarray(of_tasks, dtype=np.float64), return_counts=True)
        drawn = rng.multinomial(len(of_tasks), counts / len(of_tasks), size=RESAMPLES)
        means.append(drawn @ values / len(of_tasks))
    centres = [_mean(of_tasks) for of_tasks in gains]
    return (
        _interval(_mean(centres), np.mean(means, axis=0), confidence),
        [_interval(centre, drawn, confidence) for centre, drawn in zip(centres, means, strict=True)],
    )


def decide(rule: GateSettings, compared: Comparison, objections: Sequence[str] = ()) -> GateEvidence:
    """Return the decision with its evidence; it promotes where nobody objects."""
    found = list(objections)
    gains = {name: pair.gains for name, pair in compared.pairs.items() if pair.gains}
    overall, own = bootstrap(list(gains.values()), rule.confidence, compared.seed) if gains else (None, [])
    intervals = dict(zip(gains, own, strict=True))
    environments = {}
    for name, pair in compared.pairs.items():
        environments[name] = EnvironmentEvidence(
            tasks=len(gains.get(name, ())),
            gain=intervals.get(name),
            champion=pair.champion.figures,
            candidate=pair.candidate.figures,
        )
        found += _objections(rule, name, environments[name], compared)
    if overall is None:
        found = found or ["nothing was measured"]
    elif overall.low <= rule.min_gain:
        found.append(
            f"the mean gain is {overall.mean:+.3f} with a {rule.confidence:.0%} interval from "
            f"{overall.low:+.3f} to {overall.high:+.3f}: its lower bound is not above {rule.min_gain:g}"
        )
    found += _metric_objections(rule, compared.metrics)
    return GateEvidence(
        champion=compared.champion,
        candidate=compared.candidate,
        horizon=compared.horizon,
        method=METHOD,
        gain=overall,
        environments=environments,
        metrics=compared.metrics,
        rule=rule.model_dump(),
        objections=found,
    )


def too_few_verdicts(rule: GateSettings, name: str, version: int, figures: Figures) -> list[str]:
    """Object where too many episodes of a version have no verdict: then nothing can be decided."""
    if figures.without_verdict <= rule.max_errors * figures.episodes:
        return []
    return [
        f"{name}: {figures.without_verdict} of {figures.episodes} episodes of version {version} have no verdict, "
        f"more than {rule.max_errors:.0%}"
    ]


def _objections(rule: GateSettings, name: str, found: EnvironmentEvidence, compared: Comparison) -> list[str]:
    objections = [
        objection
        for version, figures in ((compared.champion, found.champion), (compared.candidate, found.candidate))
        for objection in too_few_verdicts(rule, name, version, figures)
    ]
    if found.tasks < rule.min_tasks:
        objections.append(f"{name}: {found.tasks} tasks have a verdict on both versions, {rule.min_tasks} are needed")
    if found.gain is not None and found.gain.mean < -rule.margin:
        objections.append(f"{name}: success changed by {found.gain.mean:+.3f}, and may fall by {rule.margin:g} at most")
    before, after = _invalid_share(found.champion), _invalid_share(found.candidate)
    if after > before + rule.max_invalid_rise:
        objections.append(f"{name}: {after:.1%} of the steps could not be understood, {before:.1%} of the champion's")
    return objections + _answer_objections(rule, name, found.champion, found.candidate)


def _answer_objections(rule: GateSettings, name: str, champion: Figures, candidate: Figures) -> list[str]:
    """Object to answers that call tools wrongly or take long, as far as both versions' were measured."""
    objections = []
    if rule.max_tool_error_rise is not None and champion.calls and candidate.calls:
        before, after = champion.bad_calls / champion.calls, candidate.bad_calls / candidate.calls
        if after > before + rule.max_tool_error_rise:
            objections.append(
                f"{name}: {after:.1%} of the tool calls could not be read, {before:.1%} of the champion's"
            )
    if rule.max_latency_ratio is not None and champion.latency_ms and candidate.latency_ms is not None:
        ratio = candidate.latency_ms / champion.latency_ms
        if ratio > rule.max_latency_ratio:
            objections.append(
                f"{name}: an answer takes {candidate.latency_ms:.0f} ms, {ratio:.2f} times the "
                f"champion's; at most {rule.max_latency_ratio:g} times is allowed"
            )
    return objections


def _metric_objections(rule: GateSettings, metrics: dict[str, float]) -> list[str]:
    kl, entropy = metrics.get("reference_kl"), metrics.get("entropy")
    objections = []
    if rule.max_kl is not None and kl is not None and kl > rule.max_kl:
        objections.append(f"the run's mean reference_kl is {kl:.4g}, at most {rule.max_kl:g} is allowed")
    if rule.min_entropy is not None and entropy is not None and entropy < rule.min_entropy:
        objections.append(f"the run's mean entropy is {entropy:.4g}, at least {rule.min_entropy:g} is needed")
    return objections


def _interval(centre: float, drawn: npt.NDArray[np.float64], confidence: float) -> Interval:
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(mean=centre, low=float(low), high=float(high))


def _invalid_share(figures: Figures) -> float:
    return figures.invalid_steps / figures.steps if figures.steps else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
