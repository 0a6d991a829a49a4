"""Seven nights of eight steps equal one run of 56 steps: sampled plays in float32, and servers that are killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.runs.nights import Learned, check_equal, learn

NIGHTS, STEPS = 7, 8
EVERY = 20
"""Learner steps of a stage of the horizon: the second begins in the middle of the third night, the third with the
sixth night."""


@pytest.fixture(scope="module", params=["full", "adapter"])
def long(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Learned:
    """One run of 56 steps by itself."""
    return learn(tmp_path_factory.mktemp("long"), request.param, 1, NIGHTS * STEPS, every=EVERY)


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kill_in_night", [False, True], ids=["killed between nights", "killed in a night as well"])
def test_seven_nights_equal_one_long_run(tmp_path: Path, long: Learned, kill_in_night: bool) -> None:
    kind = long.runs[0].config.kind
    nights = learn(tmp_path, str(kind), NIGHTS, STEPS, every=EVERY, kill_in_night=kill_in_night)
    assert [step.horizon for step in nights.steps] == [2] * 20 + [3] * 20 + [4] * 16
    assert [run.first_step for run in nights.runs] == [0, 8, 16, 24, 32, 40, 48]
    check_equal(nights, long)
