"""Success rates over repeated tasks: the interval holds its level, and says little about little."""

from __future__ import annotations

import random

import pytest

from server.training.judging.shares import share_interval


def covered(tasks: int, repetitions: int, rates: list[float], seed: int) -> float:
    """Return how often the interval of simulated tasks, drawn from some rates, contains their mean."""
    rng, hits, runs = random.Random(seed), 0, 2000
    mean = sum(rates) / len(rates)
    for _ in range(runs):
        drawn = [rng.choice(rates) for _ in range(tasks)]
        results = [(sum(rng.random() < rate for _ in range(repetitions)), repetitions) for rate in drawn]
        _, low, high = share_interval(results)
        hits += low <= mean <= high
    return hits / runs


@pytest.mark.parametrize("repetitions", [1, 4, 16])
@pytest.mark.parametrize("rates", [[0.5], [0.05], [0.0, 1.0], [0.1, 0.5, 0.9], [0.0, 0.0, 0.0, 0.6]])
@pytest.mark.parametrize("tasks", [10, 50])
def test_the_interval_contains_the_mean_as_often_as_it_says(tasks: int, rates: list[float], repetitions: int) -> None:
    assert (
        covered(tasks, repetitions, rates, seed=7) > 0.915
    )  # Of 0.95: Wilson's interval is not exact, and 2,000 runs are not either.


def test_repetitions_of_a_task_count_less_than_tasks() -> None:
    _, low, high = share_interval([(8, 8), (0, 8), (8, 8), (0, 8)])
    _, narrow_low, narrow_high = share_interval([(4, 8)] * 3 + [(5, 8)])
    assert high - low > narrow_high - narrow_low


def test_a_perfect_score_is_not_certain() -> None:
    mean, low, high = share_interval([(4, 4)] * 10)
    assert (mean, high) == (1.0, pytest.approx(1.0)) and low == pytest.approx(
        0.722, abs=0.001
    )  # Wilson's bound of 10 of 10.
    assert share_interval([(1, 1)])[1] == pytest.approx(0.207, abs=0.001)
    mean, low, high = share_interval([(0, 4)] * 10)
    assert (mean, low) == (0.0, pytest.approx(0.0)) and high == pytest.approx(0.278, abs=0.001)
