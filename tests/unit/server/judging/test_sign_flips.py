"""The test by sign flips: exact in any number of rounds, and its interval."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from server.training.judging.sign_flips import SignFlips, cell_of, evaluate, hopeless, interval, untied

SIGNS = np.array(list(itertools.product([-1, 1], repeat=10)))


def gains(seed: int, tasks: int = 10) -> np.ndarray:
    return np.random.default_rng(seed).choice([-0.5, -0.25, 0.0, 0.25, 0.5, 0.75], size=tasks)


@pytest.mark.parametrize("seed", range(10))
def test_the_p_value_is_the_share_of_sign_patterns_with_at_least_the_observed_sum(seed: int) -> None:
    observed = gains(seed)
    share = ((SIGNS * np.abs(observed)).sum(axis=1) >= observed.sum() - 1e-9).mean()
    assert evaluate([observed], 0.025).p_value == pytest.approx(share)


@pytest.mark.parametrize("rounds", [1, 2, 5])
@pytest.mark.parametrize("level", [0.1, 0.03])
def test_over_all_sign_patterns_the_test_passes_at_most_with_its_level_in_any_number_of_rounds(
    rounds: int, level: float
) -> None:
    sizes = np.abs(untied(gains(rounds)))
    passed = [evaluate(np.array_split(signs * sizes, rounds), level).passed for signs in SIGNS]
    assert level / 4 < np.mean(passed) <= level


def test_with_unequal_weights_the_test_passes_at_most_with_its_level() -> None:
    sizes = np.abs(gains(3)) * np.array([1 / 3] * 3 + [1 / 300] * 7)
    cell = cell_of([1 / 3, 1 / 300], 10)
    passed = [evaluate([signs[:6] * sizes[:6], signs[6:] * sizes[6:]], 0.1, cell=cell).passed for signs in SIGNS]
    assert 0.05 < np.mean(passed) <= 0.1


def test_a_test_that_has_passed_stays_passed() -> None:
    test = SignFlips(0.025, planned=2)
    first = test.add(np.full(20, 0.5))
    assert first.passed and test.add(np.full(20, -1.0)) == first


def test_a_gain_that_shows_only_in_later_rounds_still_passes() -> None:
    none, clear = np.array([0.25, -0.25] * 10), np.full(20, 0.5)
    passed = [evaluate([none, clear, clear, clear][:played], 0.025, planned=4).passed for played in (1, 2, 3)]
    assert passed == [False, True, True]
    bounds = [evaluate([none] * played, 0.02, planned=4).bound for played in (1, 2, 3, 4)]
    assert bounds == sorted(set(bounds)) and bounds[0] < 0.005 and bounds[3] == 0.02, "each round spends a part"


def test_gains_of_zero_are_no_evidence() -> None:
    outcome = evaluate([np.zeros(20)], 0.025)
    assert (outcome.p_value, outcome.z, outcome.passed) == (1.0, 0.0, False)
    assert interval([np.zeros(20)], 0.95) == (0.0, 0.0)


def test_the_interval_holds_the_gains_that_the_test_does_not_refute() -> None:
    observed = gains(1, tasks=40)
    low, high = interval([observed], 0.95)
    assert low < observed.mean() < high
    refuted = [evaluate([observed - gain], 0.025, cell=1 / 256).passed for gain in (low - 0.01, low + 0.01)]
    assert refuted == [True, False]
    assert interval([-observed], 0.95) == pytest.approx((-high, -low))


def test_the_interval_covers_the_true_gain() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        low, high = interval([rng.binomial(4, 0.6, 15) / 4 - rng.binomial(4, 0.4, 15) / 4], 0.9)
        covered += low <= 0.2 <= high
    assert covered >= 172


def test_with_many_tasks_the_interval_is_nearly_that_of_few() -> None:
    observed = np.random.default_rng(2).choice([-0.5, 0.0, 0.25, 0.5], size=(3, 201))
    exact, normal = interval([observed[0][:200]], 0.95), interval([observed[0]], 0.95)
    assert exact == pytest.approx(normal, abs=0.01)


def test_a_test_is_hopeless_only_while_rounds_are_left_and_the_later_the_less_it_takes() -> None:
    assert hopeless(0.0, 0.025, 4, 8) and not hopeless(1.0, 0.025, 1, 8)
    assert not hopeless(-9.0, 0.025, 8, 8)
    assert hopeless(1.5, 0.025, 7, 8) and not hopeless(1.5, 0.025, 4, 8)
    assert hopeless(9.0, 0.0, 1, 8), "without a level nothing can pass"


def test_without_a_level_nothing_passes_even_if_the_p_value_is_too_small_for_a_number() -> None:
    outcome = evaluate([np.full(2000, 0.5)], 0.0)
    assert outcome.p_value == 0.0 and not outcome.passed
