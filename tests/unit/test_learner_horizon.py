"""The horizon is a pure function of the global learner step."""

from __future__ import annotations

import pytest

from clients.wire import FixedHorizon, StepwiseHorizon
from learner.horizon import PRESETS, horizon_at


def test_stepwise_changes_after_exactly_every_steps_and_keeps_the_last_round():
    schedule = StepwiseHorizon(rounds=[10, 20, 30], every=100)
    assert [horizon_at(schedule, step) for step in (0, 99, 100, 199, 200, 299, 10_000)] == [10, 10, 20, 20, 30, 30, 30]


def test_a_run_resumed_at_any_step_sees_the_same_horizons_as_an_uninterrupted_one():
    schedule = StepwiseHorizon(rounds=[6, 13, 20], every=7)
    whole = [horizon_at(schedule, step) for step in range(30)]
    for start in range(30):
        assert [horizon_at(schedule, step) for step in range(start, 30)] == whole[start:]


def test_fixed_never_changes():
    assert {horizon_at(FixedHorizon(horizon=12), step) for step in range(500)} == {12}


def test_the_presets_are_the_papers():
    assert {name: (p.rounds, p.every) for name, p in PRESETS.items()} == {
        "babyai": ([6, 13, 20], 100),
        "textcraft": ([10, 20, 30], 100),
        "sciworld": ([10, 20, 30], 100),
        "searchqa": ([5, 8, 10], 100),
        "webarena": ([8, 12, 15], 80),
    }


def test_a_negative_step_is_an_error():
    with pytest.raises(ValueError, match="never negative"):
        horizon_at(FixedHorizon(horizon=1), -1)
