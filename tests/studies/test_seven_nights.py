"""Seven nights of eight steps equal one run of 56 steps: sampled plays in float32, and servers that are killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.runs.nights import check_equal, learn

NIGHTS, STEPS = 7, 8
EVERY = 20
"""Learner steps of a stage of the horizon: the second begins in the middle of the third night, the third with the
sixth night."""


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("kind", "kill_in_night"),
    [("full", False), pytest.param("adapter", True, marks=pytest.mark.long)],
    ids=["full weights, killed between nights", "an adapter, killed in a night as well"],
)
def test_seven_nights_equal_one_long_run(tmp_path: Path, kind: str, kill_in_night: bool) -> None:
    for name in ("long", "nights"):
        (tmp_path / name).mkdir()
    long = learn(tmp_path / "long", kind, 1, NIGHTS * STEPS, every=EVERY)
    nights = learn(tmp_path / "nights", kind, NIGHTS, STEPS, every=EVERY, kill_in_night=kill_in_night)
    assert [step.horizon for step in nights.steps] == [2] * 20 + [3] * 20 + [4] * 16
    assert [run.first_step for run in nights.runs] == [0, 8, 16, 24, 32, 40, 48]
    check_equal(nights, long)
