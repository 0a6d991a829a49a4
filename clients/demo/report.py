"""The demo's results: tables, confidence interval and plot. Every number comes from the server."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from upturn.wire import PlayView, PolicyView, RunView

RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Stage:
    """One evaluated stage."""

    name: str
    version: int
    play: PlayView

    @property
    def success(self) -> float:
        """Fraction of held-out episodes that reached the goal."""
        return self.play.success_rate or 0.0


@dataclass(frozen=True, slots=True)
class Row:
    """One learner step of the RL stage."""

    step: int
    """Counted from 1."""
    horizon: int
    success: float
    reward: float
    version: int | None
    swap_s: float | None
    play_s: float
    train_s: float


def rows(run: RunView, policies: list[PolicyView]) -> list[Row]:
    """Return one row per trained step of a run."""
    by_version = {policy.version: policy for policy in policies}
    return [
        Row(
            step=s.step + 1,
            horizon=s.horizon,
            success=s.metrics.get("success_rate", 0.0),
            reward=s.metrics.get("mean_reward", 0.0),
            version=s.policy_version,
            swap_s=by_version[s.policy_version].swap_s if s.policy_version is not None else None,
            play_s=s.metrics.get("lease_s", 0.0),
            train_s=s.metrics.get("train_s", 0.0),
        )
        for s in run.steps
    ]


def gains(before: PlayView, after: PlayView) -> list[float]:
    """Return [G] the gain in success of each goal evaluated in both plays, on the same seeds."""

    def by_goal(play: PlayView) -> dict[str, float]:
        verdicts: dict[str, list[float]] = defaultdict(list)
        for result in play.results:
            if result.success is not None:
                verdicts[result.task].append(float(result.success))
        return {task: sum(values) / len(values) for task, values in verdicts.items()}

    first, second = by_goal(before), by_goal(after)
    return [second[task] - first[task] for task in sorted(first.keys() & second.keys())]


def interval(differences: list[float], seed: int = 0) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean over goals (Efron, 1979)."""
    rng = random.Random(seed)
    count = len(differences)
    means = sorted(sum(rng.choices(differences, k=count)) / count for _ in range(RESAMPLES))
    return means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES) - 1]


def table(trained: list[Row], stages: list[Stage]) -> str:
    """Return both tables as text."""
    lines = ["step  horizon  success  mean reward  version  swap s  play s  train s"]
    for row in trained:
        version = "-" if row.version is None else f"@{row.version}"
        swap = "-" if row.swap_s is None else f"{row.swap_s:.2f}"
        lines.append(
            f"{row.step:>4}  {row.horizon:>7}  {row.success:>7.1%}  {row.reward:>11.3f}  {version:>7}  "
            f"{swap:>6}  {row.play_s:>6.1f}  {row.train_s:>7.1f}"
        )
    lines += ["", "held-out goals        version  success  episodes"]
    lines += [
        f"{stage.name:<20}  {'@' + str(stage.version):>7}  {stage.success:>7.1%}  {stage.play.finished:>8}"
        for stage in stages
    ]
    return "\n".join(lines)


def plot(trained: list[Row], stages: list[Stage], path: Path, title: str) -> None:
    """Plot success, horizon and stages to a PNG file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), width_ratios=(3, 1.2), layout="constrained")
    steps = [row.step for row in trained]
    left.plot(steps, [row.success for row in trained], marker="o", color="#2a6fdb", label="success in training plays")
    left.xaxis.get_major_locator().set_params(integer=True)
    left.set(xlabel="learner step", ylabel="success rate", ylim=(0, 1), title=title)
    horizon = left.twinx()
    horizon.step(steps, [row.horizon for row in trained], where="mid", color="#999999", linestyle="--", label="horizon")
    horizon.set(ylabel="horizon (turns)", ylim=(0, 1.5 * max((row.horizon for row in trained), default=1)))
    handles = left.get_legend_handles_labels()[0] + horizon.get_legend_handles_labels()[0]
    left.legend(handles=handles, loc="lower right", frameon=False)
    bars = right.bar([stage.name for stage in stages], [stage.success for stage in stages], color="#2a6fdb")
    right.bar_label(bars, labels=[f"{stage.success:.0%}" for stage in stages])
    right.set(ylim=(0, 1), title="held-out goals", ylabel="success rate")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
