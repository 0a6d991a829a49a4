"""The horizon is a pure function of the global learner step."""

from __future__ import annotations

import pytest

from learner.horizon import PRESETS, STAYED, SUCCESS_STOPPED_RISING, TOO_MANY_TRUNCATED, horizon_at, stage_at
from upturn.wire import AdaptiveHorizon, FixedHorizon, RunStep, StepwiseHorizon


def test_a_stepwise_horizon_advances_after_exactly_every_steps_and_keeps_the_last_round():
    schedule = StepwiseHorizon(rounds=[10, 20, 30], every=100)
    assert [horizon_at(schedule, step) for step in (0, 99, 100, 199, 200, 299, 10_000)] == [10, 10, 20, 20, 30, 30, 30]


def test_a_run_resumed_at_any_step_has_the_horizons_of_an_uninterrupted_one():
    schedule = StepwiseHorizon(rounds=[6, 13, 20], every=7)
    whole = [horizon_at(schedule, step) for step in range(30)]
    for start in range(30):
        assert [horizon_at(schedule, step) for step in range(start, 30)] == whole[start:]


def test_a_fixed_horizon_never_changes():
    assert {horizon_at(FixedHorizon(horizon=12), step) for step in range(500)} == {12}


def test_the_presets_match_the_paper():
    assert {name: (p.rounds, p.every) for name, p in PRESETS.items()} == {
        "babyai": ([6, 13, 20], 100),
        "textcraft": ([10, 20, 30], 100),
        "sciworld": ([10, 20, 30], 100),
        "searchqa": ([5, 8, 10], 100),
        "webarena": ([8, 12, 15], 80),
    }


def recorded(*figures):
    """Return a finished step for each pair of success rate and truncated share."""
    return [
        RunStep(step=i, horizon=1, policy_version=None, metrics={"success_rate": s, "truncated_share": t})
        for i, (s, t) in enumerate(figures)
    ]


def horizons(schedule, steps):
    return [horizon_at(schedule, step, steps) for step in range(len(steps) + 1)]


def test_an_adaptive_horizon_advances_when_success_stops_rising_and_judges_each_stage_by_its_own_steps():
    schedule = AdaptiveHorizon(rounds=[5, 10, 20], window=2, min_gain=0.05)
    rising = recorded(*[(s, 0.0) for s in (0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.3, 0.3, 0.0, 0.0)])
    assert horizons(schedule, rising) == [5, 5, 5, 5, 5, 5, 5, 10, 10, 10, 10]
    assert stage_at(schedule, 7, rising) == (1, SUCCESS_STOPPED_RISING)
    assert stage_at(schedule, 8, rising) == (1, STAYED)


def test_an_adaptive_horizon_advances_when_too_many_episodes_are_truncated():
    schedule = AdaptiveHorizon(rounds=[5, 10], window=2, max_truncated=0.5)
    cut = recorded((0.1, 0.4), (0.2, 0.5), (0.3, 0.6), (0.4, 0.6))
    assert horizons(schedule, cut) == [5, 5, 5, 10, 10]
    assert stage_at(schedule, 3, cut) == (1, TOO_MANY_TRUNCATED)


def test_an_adaptive_horizon_stays_at_exactly_the_least_gain_and_the_most_truncated():
    schedule = AdaptiveHorizon(rounds=[5, 10], window=2, min_gain=0.25, max_truncated=0.5)
    gained = recorded((0.25, 0.5), (0.25, 0.5), (0.5, 0.5), (0.5, 0.5))
    assert horizons(schedule, gained) == [5, 5, 5, 5, 5]
    less = recorded((0.25, 0.5), (0.25, 0.5), (0.5, 0.5), (0.4375, 0.5))
    assert stage_at(schedule, 4, less) == (1, SUCCESS_STOPPED_RISING)
    more = recorded((0.25, 0.5), (0.25, 0.5625))
    assert stage_at(schedule, 2, more) == (1, TOO_MANY_TRUNCATED)


def test_an_adaptive_horizon_judges_only_whole_windows():
    schedule = AdaptiveHorizon(rounds=[5, 10], window=2, min_gain=0.25, max_truncated=0.5)
    assert horizons(schedule, recorded((0.5, 0.0), (0.5, 0.0), (0.0, 0.0))) == [5, 5, 5, 5]
    assert horizons(schedule, recorded((0.0, 1.0))) == [5, 5]


def test_an_adaptive_horizon_never_leaves_the_last_stage_and_skips_steps_without_a_figure():
    schedule = AdaptiveHorizon(rounds=[5, 10], window=1, min_gain=0.1)
    flat = recorded(*[(0.5, 0.0)] * 8)
    assert horizons(schedule, flat)[-1] == 10
    flat[1] = flat[1].model_copy(update={"metrics": {}})
    assert horizons(schedule, flat)[:4] == [5, 5, 5, 10]


def test_an_adaptive_horizon_depends_only_on_the_record_and_refuses_an_incomplete_one():
    schedule = AdaptiveHorizon(rounds=[5, 10, 20], window=1, min_gain=0.1)
    steps = recorded(*[(0.1 * (i % 3), 0.0) for i in range(12)])
    assert horizons(schedule, steps) == [horizon_at(schedule, n, steps[:n]) for n in range(13)]
    with pytest.raises(ValueError, match="all 3 recorded steps"):
        horizon_at(schedule, 3, steps[:2])


def test_a_negative_step_is_an_error():
    with pytest.raises(ValueError, match="never negative"):
        horizon_at(FixedHorizon(horizon=1), -1)
