"""Means with their intervals on a common axis, such as the gain of a candidate in each environment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from upturn.wire import Interval

WIDTH, LEFT, RIGHT, ROW, TOP = 820, 170, 180, 28, 6
STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Bar:
    """One interval."""

    name: str
    low: float
    mean: float
    high: float
    """Places on the axis."""
    y: float
    tone: str
    """`good` if the interval lies above 0, `bad` if below, otherwise empty."""
    text: str


@dataclass(frozen=True, slots=True)
class Plot:
    """The drawing."""

    width: int
    height: int
    left: int
    right: int
    """Ends of the axis."""
    zero: float
    bars: list[Bar]
    ticks: list[tuple[float, str]]
    """Place and label."""


def plot(named: Sequence[tuple[str, Interval]]) -> Plot | None:
    """Return the plot of shares, such as gains of success; None without intervals."""
    usable = [(name, one) for name, one in named if all(map(math.isfinite, (one.low, one.mean, one.high)))]
    if not usable:
        return None
    reach = max(0.02, *(abs(value) for _, one in usable for value in (one.low, one.high)))
    reach = min(reach, 1.0) * 1.05
    inner = WIDTH - LEFT - RIGHT

    def place(value: float) -> float:
        return round(LEFT + inner * (min(max(value, -reach), reach) + reach) / (2 * reach), 1)

    step = next((step for step in STEPS if reach / step <= 4), 1.0)
    count = int(reach / step)
    bars = [
        Bar(
            name,
            place(one.low),
            place(one.mean),
            place(one.high),
            TOP + ROW * (row + 0.5),
            "good" if one.low > 0 else "bad" if one.high < 0 else "",
            f"{100 * one.mean:+.1f} % [{100 * one.low:+.1f}, {100 * one.high:+.1f}]".replace("-", "−"),
        )
        for row, (name, one) in enumerate(usable)
    ]
    ticks = [(place(step * i), f"{100 * step * i:+g} %".replace("-", "−")) for i in range(-count, count + 1)]
    return Plot(WIDTH, TOP + ROW * len(bars) + 28, LEFT, WIDTH - RIGHT, place(0), bars, ticks)
