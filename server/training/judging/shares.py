"""The interval of a success rate over tasks that are repeated. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, variance

from upturn.wire import Interval

Z = 1.959963984540054
"""Quantile of the standard normal distribution for 95 %, two-sided."""


def share_interval(of_tasks: Sequence[tuple[int, int]]) -> tuple[float, float, float]:
    """Return the mean success over tasks, and the bounds of its 95 % interval.

    Wilson's interval (1927) at the effective number of episodes: the episodes of one task resemble each other, so they
    count less by the design effect (Kish, 1965), which the variance between tasks shows. Where all tasks have the same
    rate, as when all succeed, there is no such evidence, and a task counts as one episode.

    Args:
        of_tasks: successes and episodes of each task, at least one episode each.
    """
    rates = [won / count for won, count in of_tasks]
    tasks, episodes, mean = len(rates), sum(count for _, count in of_tasks), fmean(rates)
    between = variance(rates) if tasks > 1 else 0.0
    alike = mean * (1 - mean) / between if between > 0 else 1.0  # Episodes of a task that count; below 1 by chance.
    interval = wilson(mean, min(max(alike, 1.0) * tasks, float(episodes)))
    return mean, interval.low, interval.high


def wilson(share: float, count: float) -> Interval:
    """Return the 95 % interval of a share of `count` independent cases, by Wilson's formula."""
    spread = Z * math.sqrt(share * (1 - share) / count + Z * Z / (4 * count * count))
    center, scale = share + Z * Z / (2 * count), 1 + Z * Z / count
    return Interval(mean=share, low=max(0.0, (center - spread) / scale), high=min(1.0, (center + spread) / scale))
