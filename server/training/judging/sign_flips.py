"""The test of a mean gain by sign flips, exact for any number of tasks, in rounds that may end early. Pure functions.

If a candidate is no better, each task's gain is as likely positive as negative (Fisher's randomization test). Given
the sizes of the gains, their signs are then fair coins, so the distribution of their sum is known exactly: it is
computed by convolution, without random numbers and without a normal approximation.

With several rounds of tasks the level is spent over the rounds, `level` x (played share) ** `SPENDING` by each (Lan
and DeMets, 1983; Kim and DeMets, 1987). The signs that would have ended the test in an earlier round are left out of
the later ones, so the probability of ever passing is at most `level` whatever ends the test early.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

SPENDING = 1.25
"""Exponent of the spending function: between Pocock's test and O'Brien and Fleming's (chosen by simulation)."""
OPTIMISM = 1.25
"""Standard errors that hopeless candidates are given in their favor, while tasks are left (chosen by simulation)."""
CELLS = 64  # Grid cells of a gain of 1.
MANY_TASKS = 1000  # With more tasks the grid has 16 cells: the work is quadratic in the number of tasks.
EXACT_INTERVAL = 200  # With more tasks, an interval's signs are taken to sum up to a normal distribution.
NEAR = 0.03  # The exact bound is usually this near to that of a normal distribution.
PRECISION = 0.0005  # Of the bounds of an interval.

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The state of a test after a round."""

    p_value: float
    """Probability of passing before this round, or of a sum of gains at least as large in it (stagewise ordering)."""
    bound: float
    """The part of the level that is spent by this round."""
    z: float
    """The sum of the gains in standard errors under fair signs; 0 if all gains are 0."""
    round: int
    """The round of the outcome, from 1: the first that passed, otherwise the last."""

    @property
    def passed(self) -> bool:
        """Whether the mean gain is above 0 at the test's level."""
        return self.p_value <= self.bound > 0


def spent(level: float, played: int, planned: int) -> float:
    """Return the part of a test's level that its first `played` of `planned` rounds spend."""
    return level * math.pow(played / planned, SPENDING)


def untied(gains: Values) -> Values:
    """Return gains of which large ones count slightly less: their sums are less often equal, which gives power."""
    shrunk: Values = gains - gains * np.abs(gains) / 16
    return shrunk


def cell_of(weights: Sequence[float], tasks: int) -> float:
    """Return the width of a grid that suits gains of these weights, for a number of tasks in all rounds."""
    fine = min(weights) / 16
    return fine if tasks > MANY_TASKS else min(fine, max(weights) / CELLS)


class SignFlips:
    """A test of whether gains are positive on average, round by round.

    Args:
        level: probability of passing for gains with signs of fair coins.
        planned: number of rounds with which the test ends.
        cell: width of the grid to which weighted gains are rounded, from `cell_of`. Rounding keeps the level exact:
            rounded gains have the same signs.
    """

    def __init__(self, level: float, planned: int = 1, cell: float = 1 / CELLS) -> None:
        self._level, self._planned, self._cell = level, planned, cell
        self._sums = np.ones(1)  # [s] probability that the positive gains sum up to s, and that no round has passed
        self._positive, self._total, self._squares = 0, 0, 0.0
        self._passed_before = 0.0
        self.outcome = Outcome(1.0, 0.0, 0.0, 0)

    def add(self, gains: Values) -> Outcome:
        """Add the [T] weighted gains of a round's tasks, and return the outcome; it is final once it has passed."""
        if self.outcome.passed:
            return self.outcome
        grid = np.rint(gains / self._cell).astype(np.int64)
        sums = self._sums
        for size in np.abs(grid[grid != 0]):
            spread = np.zeros(len(sums) + int(size))
            spread[: len(sums)] = sums
            spread[size:] += sums
            sums = spread * 0.5
        self._positive += int(grid[grid > 0].sum())
        self._total += int(grid.sum())
        self._squares += float((grid.astype(np.float64) ** 2).sum())
        number = self.outcome.round + 1
        bound = spent(self._level, number, self._planned)
        p_values = self._passed_before + np.cumsum(sums[::-1])[::-1]  # [s] of each possible sum of the positive gains
        z = self._total / math.sqrt(self._squares) if self._squares else 0.0
        self.outcome = Outcome(min(1.0, float(p_values[self._positive])), bound, z, number)
        passing = int(np.searchsorted(-p_values, -bound))  # The p-values fall with the sum.
        if passing < len(sums):
            self._passed_before = float(p_values[passing])
            sums[passing:] = 0.0
        self._sums = sums
        return self.outcome


def evaluate(rounds: Sequence[Values], level: float, *, planned: int | None = None, cell: float = 1 / CELLS) -> Outcome:
    """Return the outcome of a test of [K][T_k] weighted gains, of which `planned` rounds are planned (default: K)."""
    test = SignFlips(level, planned or len(rounds), cell)
    for gains in rounds:
        test.add(gains)
    return test.outcome


def hopeless(z: float, level: float, played: int, planned: int) -> bool:
    """Return whether a test is unlikely to pass in its remaining rounds: its level holds whether it ends then or not.

    It is if its trend, extrapolated to the last round, fails even with `OPTIMISM` standard errors more.

    Args:
        z: the sum of the gains so far in standard errors.
        level: the level of the test.
        played: rounds so far.
        planned: rounds with which the test ends.
    """
    share = played / planned
    needed = NormalDist().inv_cdf(1 - level) if level > 0 else math.inf
    return share < 1 and z + OPTIMISM * (1 - share) < needed * math.sqrt(share)


def interval(gains: Sequence[Values], confidence: float) -> tuple[float, float]:
    """Return the bounds of the mean over groups of their mean gains, by inverting the test: both tails are equal.

    Args:
        gains: [E][T] gains of each group's tasks, from -1 to 1, at least one each.
        confidence: coverage of the interval.
    """
    level = (1 - confidence) / 2
    return _lower(gains, level), 0.0 - _lower([-values for values in gains], level)


def _lower(gains: Sequence[Values], level: float) -> float:
    """Return the smallest mean gain that the test does not refute, at least -1."""
    center = sum(float(values.mean()) for values in gains) / len(gains)
    weights = [1 / len(values) for values in gains]
    tasks = sum(map(len, gains))
    needed = NormalDist().inv_cdf(1 - level)

    def differences(gain: float) -> Values:
        return np.concatenate([(of_group - gain) * weight for of_group, weight in zip(gains, weights, strict=True)])

    def nearly_refuted(gain: float) -> bool:
        values = differences(gain)
        return float(values.sum()) > needed * math.sqrt(float((values**2).sum()))

    def refuted(gain: float) -> bool:
        values = differences(gain)
        largest = float(np.abs(values).max())
        return largest > 0 and evaluate([values], level, cell=min(largest / 256, cell_of(weights, tasks))).passed

    near = _boundary(nearly_refuted, -1.0, center)
    if tasks > EXACT_INTERVAL:
        return near
    low, high = max(-1.0, near - NEAR), min(center, near + NEAR)
    if not refuted(low):
        low, high = -1.0, low
    elif high < center and refuted(high):
        low, high = high, center
    return _boundary(refuted, low, high)


def _boundary(below: Callable[[float], bool], low: float, high: float) -> float:
    """Return the boundary of a condition that holds below it, or the bound of the range where there is none."""
    if not below(low):
        return low
    top = high
    while high - low > PRECISION:
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return top if top - low < 2 * PRECISION else low
