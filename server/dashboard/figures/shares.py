"""Success rates with their intervals on an axis from 0 to 100 %."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from upturn.wire import Share

WIDTH, HEIGHT, SIDE = 120, 22, 4


@dataclass(frozen=True, slots=True)
class Mark:
    """An interval's places in its drawing, in pixels."""

    low: float
    mean: float
    high: float
    width: int = WIDTH
    height: int = HEIGHT
    ticks: Sequence[float] = ()
    """Places of 0, 25, 50, 75, and 100 %."""


def mark(share: Share | None) -> Mark | None:
    """Return the drawing of a success rate; None without one."""
    if share is None:
        return None
    ticks = [_place(quarter / 4) for quarter in range(5)]
    return Mark(_place(share.low), _place(share.success), _place(share.high), ticks=ticks)


def _place(value: float) -> float:
    return round(SIDE + (WIDTH - 2 * SIDE) * min(max(value, 0.0), 1.0), 1)
