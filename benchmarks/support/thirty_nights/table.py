"""The table of nights, its plot, and what must be true at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.support.thirty_nights.plan import Event
from clients.demo.report import interval

COLORS = {"promote": "#2e9e4f", "continue": "#2a6fdb", "revert": "#d0342c", "nothing": "#999999", "start": "#999999"}


@dataclass(frozen=True)
class Row:
    """What a night led to, as it was known in the morning after it."""

    night: int
    event: Event | None
    outcome: str
    """`promote`, `continue`, `revert`, or `nothing`; `start` before the first night."""
    champion: int
    horizon: int | None
    """Of the run's last learner step."""
    tasks: dict[str, float]
    """Success of the champion on each task that no decision sees."""
    live_reward: float | None
    """Mean reward of the day's and the night's conversations."""
    turns: int
    """Answered turns."""
    lost: int
    """Of these, how many are not in the record."""
    twice: int
    """Turns of the same conversations in the record that no user got."""
    repeated: int
    """Requests that a kill interrupted, each sent again."""
    failed: int
    """Requests that failed otherwise."""
    runs: int
    """Runs that the schedule has started so far."""
    rollbacks: int
    """Rollbacks by the watch so far."""
    interrupted_swaps: int
    """Versions so far that the server was loading when it was killed."""
    found: list[str] = field(default_factory=list)
    """Features that the auditor found in the night's candidate."""
    by_hand: str | None = None
    """Decision on the weights that were published by hand on the day before."""

    @property
    def success(self) -> float:
        """Mean success over tasks."""
        return fmean(self.tasks.values())

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """95 % interval of the mean success over tasks."""
        return interval(list(self.tasks.values()))

    def gains(self, before: Row) -> list[float]:
        """Return the gain on each task since another night."""
        return [value - before.tasks[task] for task, value in self.tasks.items()]


COLUMNS: tuple[tuple[str, int, Callable[[Row], object]], ...] = (
    ("night", 5, lambda row: row.night),
    ("event", 8, lambda row: row.event),
    ("outcome", 8, lambda row: row.outcome),
    ("champion", 8, lambda row: f"@{row.champion}"),
    ("horizon", 7, lambda row: row.horizon),
    ("success", 7, lambda row: f"{row.success:.1%}"),
    ("95 % interval", 14, lambda row: "{:.1%}, {:.1%}".format(*row.bounds)),
    ("live", 4, lambda row: None if row.live_reward is None else f"{row.live_reward:.2f}"),
    ("turns", 5, lambda row: row.turns),
    ("lost", 4, lambda row: row.lost),
    ("twice", 5, lambda row: row.twice),
    ("repeated", 8, lambda row: row.repeated),
    ("failed", 6, lambda row: row.failed),
    ("found", 5, lambda row: ", ".join([*row.found, *filter(None, [row.by_hand])]) or None),
)
"""Name, width, and value of each column."""


def header() -> str:
    """Return the names of the columns."""
    return "  ".join(f"{name:>{width}}" for name, width, _ in COLUMNS)


def line(row: Row) -> str:
    """Return a row of the table."""
    values = [(width, value(row)) for _, width, value in COLUMNS]
    return "  ".join(f"{'-' if value is None else str(value):>{width}}" for width, value in values)


def false_promotions(rows: Sequence[Row]) -> list[int]:
    """Return the nights that promoted a version whose gain on the tasks that no decision sees is not above 0.

    That is if its whole 95 % interval is at most 0: the measurement has fewer episodes than the decision, so a small
    gain may be measured as a small loss.
    """
    promoted = [(before, row) for before, row in pairwise(rows) if row.outcome == "promote"]
    return [row.night for before, row in promoted if interval(row.gains(before))[1] <= 0]


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the figures over all nights, and whether each promise was kept."""
    first, last = rows[0], rows[-1]
    gains = last.gains(first)
    low, high = interval(gains)
    total = {name: sum(getattr(row, name) for row in rows) for name in ("turns", "lost", "twice", "repeated", "failed")}
    loophole, sabotage, broken = (
        [row for row in rows if row.event == event] for event in ("loophole", "sabotage", "broken")
    )
    false = false_promotions(rows)
    promises = {
        "better at the end": low > 0,
        "every answered turn is recorded once": total["lost"] == total["twice"] == 0,
        "no request failed but those that a kill interrupted": total["failed"] == 0,
        "no false promotion": not false,
        "each night had one run": [row.runs for row in rows] == list(range(len(rows))),
        "the auditor named the loophole": any(row.outcome == "revert" and "no_action" in row.found for row in loophole),
        "the weights published by hand were rejected": all(row.by_hand == "gate: reject" for row in sabotage),
        "each night was decided but that of the broken game": all(
            row.outcome != "nothing" for row in rows if row.event != "broken"
        ),
        "a broken game promoted nothing": all(row.outcome != "promote" for row in broken),
    }
    return {
        "nights": len(rows) - 1,
        "start": first.success,
        "end": last.success,
        "gain": sum(gains) / len(gains),
        "interval": [low, high],
        "promotions": sum(row.outcome == "promote" for row in rows),
        "false_promotions": false,
        "rollbacks": last.rollbacks,
        "interrupted_swaps": last.interrupted_swaps,
        **total,
        "promises": promises,
    }


def plot(rows: Sequence[Row], path: Path, title: str) -> None:
    """Plot success, live reward, horizon, outcomes, and events by night to a PNG file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(11, 4.6), layout="constrained")
    nights, success = [row.night for row in rows], [row.success for row in rows]
    lows, highs = zip(*(row.bounds for row in rows), strict=True)
    axes.fill_between(nights, lows, highs, color="#2a6fdb", alpha=0.2, linewidth=0, label="95 % interval")
    axes.plot(nights, success, color="#2a6fdb", label="success on tasks that no decision saw")
    rewarded = [row for row in rows if row.live_reward is not None]
    axes.plot(
        [row.night for row in rewarded], [row.live_reward for row in rewarded], color="#e08a00", label="live reward"
    )
    for outcome, color in COLORS.items():
        chosen = [row for row in rows if row.outcome == outcome]
        if chosen:
            points = [row.night for row in chosen], [row.success for row in chosen]
            axes.scatter(*points, color=color, zorder=3, label=outcome)
    for row in rows:
        if row.event is not None:
            axes.annotate(row.event, (row.night, 1.03), rotation=60, fontsize=8, color="#555555", annotation_clip=False)
    axes.set(xlabel="night", ylabel="success, mean reward", ylim=(0, 1.3), title=title)
    axes.xaxis.get_major_locator().set_params(integer=True)
    horizon = axes.twinx()
    stages = [row for row in rows if row.horizon is not None]
    horizon.step(
        [row.night for row in stages], [row.horizon for row in stages], where="mid", color="#999999", linestyle="--",
        label="horizon",
    )  # fmt: skip
    horizon.set(ylabel="horizon (turns)", ylim=(0, 8.5))
    handles = axes.get_legend_handles_labels()[0] + horizon.get_legend_handles_labels()[0]
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.06, 1), frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
