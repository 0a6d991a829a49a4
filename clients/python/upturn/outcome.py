"""What the steps of a run taught, in words: from the metrics that the server keeps of each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Metrics = Mapping[str, float]
_LEFT_OUT = (
    ("groups_too_large", "group", "larger than live.limit"),
    ("live_used", "live episode", "already used"),
    ("live_unrewarded", "live episode", "without a reward that counts"),
    ("live_excluded", "live episode", "left out by the settings of live"),
    ("live_stale", "live episode", "too old for max_staleness"),
)


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
    return f"0 episodes trained, because {_why(skipped)}; {_advice(skipped)}"


def _why(steps: Sequence[Metrics]) -> str:
    alike, mixed, incomplete, episodes, errors = (
        int(_sum(steps, name))
        for name in ("groups_without_variance", "groups", "groups_incomplete", "episodes", "errors")
    )
    if errors and errors == episodes:
        return f"all {_count(errors, 'episode')} failed"
    left_out = _left_out(steps)
    if not episodes and not left_out:
        return "there were no episodes"
    alone = f"{_count(incomplete, 'group')} had fewer than two usable episodes" if incomplete else ""
    same = ""
    if alike and not mixed:
        same = f"{'all ' if not incomplete and not left_out and alike > 1 else ''}{_count(alike, 'group')} scored alike"
    if (why := [same, alone, *left_out]) and not mixed and any(why):
        return ", ".join(filter(None, why))
    if equal := int(_sum(steps, "episodes_with_equal_rewards")):
        return "1 episode has nothing to be compared with" if equal == 1 else f"all {equal} episodes scored alike"
    return f"none of {_count(episodes, 'episode')} can be learned from"


def _left_out(steps: Sequence[Metrics]) -> list[str]:
    """Return why steps without a play took no live episodes: as of the last one, since all look at the same record."""
    few = int(max(metrics.get("live_too_few", 0) for metrics in steps))
    last = next((m for m in reversed(steps) if any(m.get(name) for name, _, _ in _LEFT_OUT)), {})
    return [
        *([f"{_count(few, 'usable live episode')}, fewer than live.min_episodes"] if few else []),
        *(f"{_count(int(last[name]), noun)} {what}" for name, noun, what in _LEFT_OUT if last.get(name)),
    ]


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
