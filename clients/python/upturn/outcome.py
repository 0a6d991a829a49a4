"""What the steps of a run taught, in words: from the metrics that the server keeps of each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Metrics = Mapping[str, float]


def nothing_to_learn(metrics: Metrics) -> str | None:
    """Return why a learner step had nothing to learn; None for a step that trained.

    Args:
        metrics: the step's metrics, as in `RunStep`.
    """
    return _why([metrics]) if metrics.get("skipped") else None


def outcome(steps: Sequence[Metrics]) -> str:
    """Return how many steps of a run trained, how many had nothing to learn, and why.

    Args:
        steps: the metrics of each finished step.
    """
    skipped = [metrics for metrics in steps if metrics.get("skipped")]
    trained = len(steps) - len(skipped)
    if not skipped:
        return f"{_count(trained, 'step')} trained"
    if trained:
        return f"{_count(trained, 'step')} trained, {len(skipped)} had nothing to learn ({_why(skipped)})"
    which = "its only step had nothing to learn" if len(steps) == 1 else f"all {len(steps)} steps had nothing to learn"
    return f"nothing was learned: {which} ({_why(skipped)}); {_advice(skipped)}"


def _why(steps: Sequence[Metrics]) -> str:
    alike, mixed, incomplete, episodes, errors = (
        int(_sum(steps, name))
        for name in ("groups_without_variance", "groups", "groups_incomplete", "episodes", "errors")
    )
    if errors and errors == episodes:
        return f"all {_count(errors, 'episode')} failed"
    if not episodes:
        return "there were no episodes"
    alone = f"{_count(incomplete, 'group')} had fewer than two usable episodes" if incomplete else ""
    if alike and not mixed:
        same = f"{'all ' if not incomplete and alike > 1 else ''}{_count(alike, 'group')} scored alike"
        return f"{same}, {alone}" if alone else same
    if alone and not mixed:
        return alone
    if equal := int(_sum(steps, "episodes_with_equal_rewards")):
        return "1 episode has nothing to be compared with" if equal == 1 else f"all {equal} episodes scored alike"
    return f"none of {_count(episodes, 'episode')} can be learned from"


def _advice(steps: Sequence[Metrics]) -> str:
    """Return what to change before the next run."""
    rates = [metrics["success_rate"] for metrics in steps if "success_rate" in metrics]
    if _sum(steps, "episodes_with_equal_rewards"):
        return "a run learns from episodes with different rewards: docs/training-data.md"
    if not _sum(steps, "groups_without_variance"):
        return "docs/training-data.md says which episodes a run can learn from"
    if rates and max(rates) == 0:
        return "no episode succeeded: choose easier tasks or a longer horizon, or train on demonstrations first (sft)"
    if rates and min(rates) == 1:
        return "every episode succeeded: choose harder tasks"
    return "choose tasks that the policy sometimes solves (curriculum = learnability), or larger groups"


def _sum(steps: Sequence[Metrics], name: str) -> float:
    return sum(metrics.get(name, 0.0) for metrics in steps)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
