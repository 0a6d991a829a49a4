"""The promotion gate's objections: each function yields the reasons against promoting a candidate (step 13).

To add an objection, write one function and decorate it with `@objection`. It receives the evidence and the gate's
settings, and yields a sentence for each reason. `gate_rule.py` promotes the candidate if no function yields any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from server.training.settings import GateSettings
from upturn.wire import Figures, GateEvidence

Objection = Callable[[GateEvidence, GateSettings], Iterator[str]]
"""Yields the reasons against promoting the candidate: (evidence so far, settings) -> one sentence each."""
OBJECTIONS: list[Objection] = []
"""All objections, in the order in which the decision lists them."""


def objection(function: Objection) -> Objection:
    """Register a function as the last objection."""
    OBJECTIONS.append(function)
    return function


@objection
def episodes_lack_verdicts(evidence: GateEvidence, rule: GateSettings) -> Iterator[str]:
    """Too many episodes of either version failed or were not judged (`max_errors`)."""
    for name, result in (*evidence.environments.items(), *evidence.guards.items()):
        yield from too_few_verdicts(rule, name, evidence.champion, result.champion)
        yield from too_few_verdicts(rule, name, evidence.candidate, result.candidate)


@objection
def too_few_tasks(evidence: GateEvidence, rule: GateSettings) -> Iterator[str]:
    """An environment has fewer than `min_tasks` tasks with a verdict on both versions."""
    for name, result in evidence.environments.items():
        if result.tasks < rule.min_tasks:
            yield f"{name}: {result.tasks} tasks have a verdict on both versions, {rule.min_tasks} are needed"


@objection
def an_environment_lost(evidence: GateEvidence, rule: GateSettings) -> Iterator[str]:
    """The mean success in an environment fell by more than `margin`."""
    for name, result in evidence.environments.items():
        if result.gain is not None and result.gain.mean < -rule.margin:
            yield f"{name}: success changed by {result.gain.mean:+.3f}, the allowed fall is {rule.margin:g}"


@objection
def more_invalid_steps(evidence: GateEvidence, rule: GateSettings) -> Iterator[str]:
    """The share of steps that could not be understood rose by more than `max_invalid_rise` in an environment."""
    for name, result in evidence.environments.items():
        before, after = _invalid_share(result.champion), _invalid_share(result.candidate)
        if after > before + rule.max_invalid_rise:
            yield f"{name}: {after:.1%} of the steps could not be understood, {before:.1%} of the champion's"


@objection
def more_bad_tool_calls(evidence: GateEvidence, rule: GateSettings) -> Iterator[str]:
    """The share of bad tool calls rose by more than `max_tool_error_rise`, if both versions called tools."""
    for name, result in evidence.environments.items():
        champion, candidate = result.champion, result.candidate
        if rule.max_tool_error_rise is None or not champion.calls or not candidate.calls:
            continue
        before, after = champion.bad_calls / champion.calls, candidate.bad_calls / candidate.calls
        if after > before + rule.max_tool_error_rise:
            yield f"{name}: {after:.1%} of the tool calls could not be parsed, {before:.1%} of the champion's"


@objection
def slower_answers(evidence: GateEvidence, rule: GateSettings) -> Iterator[str]:
    """The mean duration of an answer is more than `max_latency_ratio` times the champion's, if both were measured."""
    for name, result in evidence.environments.items():
        before, after = result.champion.latency_ms, result.candidate.latency_ms
        if rule.max_latency_ratio is None or not before or after is None:
            continue
        if after / before > rule.max_latency_ratio:
            yield (
                f"{name}: an answer takes {after:.0f} ms, {after / before:.2f} times the champion's; at most "
                f"{rule.max_latency_ratio:g} times is allowed"
            )


@objection
def nothing_measured(evidence: GateEvidence, _: GateSettings) -> Iterator[str]:
    """There is no comparison, and no other objection explains why."""
    if not evidence.environments and not evidence.objections:
        yield "nothing was measured"


@objection
def gain_not_certain(evidence: GateEvidence, rule: GateSettings) -> Iterator[str]:
    """The mean gain is not above `min_gain` at the level of the decision."""
    gain, test = evidence.gain, evidence.test
    if gain is not None and test is not None and not test.passed:
        yield (
            f"the mean gain is {gain.mean:+.3f} with a {rule.confidence:.0%} interval from {gain.low:+.3f} to "
            f"{gain.high:+.3f}: not above {rule.min_gain:g} with p = {test.p_value:.2g}, at most {test.bound:.2g} is "
            f"allowed after {test.rounds} of {test.planned_rounds} rounds"
        )


@objection
def a_guard_got_worse(evidence: GateEvidence, rule: GateSettings) -> Iterator[str]:
    """In a guard environment a fall by `guard_margin` cannot be ruled out."""
    for name, result in evidence.guards.items():
        gain = result.gain
        if gain is None:
            yield f"guard {name}: no task has a verdict on both versions"
        elif gain.low <= -rule.guard_margin:
            yield (
                f"guard {name}: success changed by {gain.mean:+.3f} with a {rule.guard_confidence:.0%} interval from "
                f"{gain.low:+.3f} to {gain.high:+.3f}: a fall by {rule.guard_margin:g} cannot be ruled out"
            )


@objection
def run_metrics_out_of_bounds(evidence: GateEvidence, rule: GateSettings) -> Iterator[str]:
    """The run's mean `reference_kl` is above `max_kl`, or its mean `entropy` below `min_entropy`."""
    kl, entropy = evidence.metrics.get("reference_kl"), evidence.metrics.get("entropy")
    if rule.max_kl is not None and kl is not None and kl > rule.max_kl:
        yield f"the run's mean reference_kl is {kl:.4g}, at most {rule.max_kl:g} is allowed"
    if rule.min_entropy is not None and entropy is not None and entropy < rule.min_entropy:
        yield f"the run's mean entropy is {entropy:.4g}, at least {rule.min_entropy:g} is needed"


@objection
def a_reward_may_be_hacked(evidence: GateEvidence, _: GateSettings) -> Iterator[str]:
    """The audit found something that rose with the reward and should not (`audit_*`)."""
    for finding in evidence.audit:
        if finding.flagged:
            yield finding.sentence


def unmeasured(evidence: GateEvidence, rule: GateSettings) -> Iterator[str]:
    """Yield the reasons for which the results cannot be tested at all."""
    for objects in (episodes_lack_verdicts, too_few_tasks, nothing_measured):
        yield from objects(evidence, rule)


def too_few_verdicts(rule: GateSettings, name: str, version: int, figures: Figures) -> Iterator[str]:
    """Object if too many of a version's episodes in an environment have no verdict to decide anything."""
    if figures.without_verdict > rule.max_errors * figures.episodes:
        yield (
            f"{name}: {figures.without_verdict} of {figures.episodes} episodes of version {version} have no verdict, "
            f"more than {rule.max_errors:.0%}"
        )


def _invalid_share(figures: Figures) -> float:
    return figures.invalid_steps / figures.steps if figures.steps else 0.0
