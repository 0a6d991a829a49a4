"""Small curves of the last days."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT, RIM = 280, 56, 6


@dataclass(frozen=True, slots=True)
class Days:
    """A small curve with one point per day."""

    title: str
    width: int
    height: int
    lines: list[str]
    """Points of each unbroken line, as SVG."""
    dots: list[tuple[float, float, float, float]]
    """Place, time and value of each point."""
    newest: float | None
    share: bool
    """The values are shares."""


def days(title: str, at: Sequence[float], values: Sequence[float | None], *, share: bool = False) -> Days:
    """Return the curve of values; None is a gap, and shares have the axis from 0 to 1.

    Args:
        title: what is shown.
        at: beginning of each day.
        values: one for each day.
        share: whether the values are shares.
    """
    known = [value for value in values if value is not None]
    top = 1.0 if share else max(known, default=0.0) or 1.0
    low = 0.0 if share else min(0.0, *known, 0.0)
    lines: list[list[str]] = [[]]
    dots = []
    for number, (moment, value) in enumerate(zip(at, values, strict=True)):
        if value is None:
            lines.append([])
            continue
        x = round(RIM + (WIDTH - 2 * RIM) * number / max(1, len(values) - 1), 1)
        y = round(HEIGHT - RIM - (HEIGHT - 2 * RIM) * (value - low) / (top - low), 1)
        lines[-1].append(f"{x},{y}")
        dots.append((x, y, moment, value))
    newest = known[-1] if known else None
    return Days(title, WIDTH, HEIGHT, [" ".join(line) for line in lines if len(line) > 1], dots, newest, share)
