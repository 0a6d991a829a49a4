"""The demo's figures: gains are paired by goal, and the interval covers the mean at its nominal rate."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from clients.demo.__main__ import new_folder
from clients.demo.plan import reinforcement, supervised
from clients.demo.report import gains, interval
from server.training.run_checks import check_config
from upturn.wire import PlayedEpisode, PlayView


def view(results: dict[str, list[bool | None]]) -> PlayView:
    played = [
        PlayedEpisode(
            episode_id=f"{task}-{i}",
            task=task,
            group=None,
            status="terminated",
            reward=None,
            success=success,
            turns=1,
            policy_version=0,
        )
        for task, values in results.items()
        for i, success in enumerate(values)
    ]
    return PlayView(
        id="p",
        state="done",
        error=None,
        environment="e",
        horizon=1,
        purpose="evaluation",
        episodes=len(played),
        finished=len(played),
        succeeded=0,
        errors=0,
        sampled_tokens=0,
        success_rate=None,
        mean_reward=None,
        wall_s=0.0,
        results=played,
    )


def test_gains_are_paired_by_goal_and_skip_episodes_without_a_verdict() -> None:
    before = view({"a": [False, False], "b": [True, False], "only before": [True]})
    after = view({"b": [True, True], "a": [True, False], "c": [None]})
    assert gains(before, after) == [0.5, 0.5]


def test_the_interval_of_equal_gains_is_a_point_and_is_reproducible() -> None:
    assert interval([0.25] * 10) == pytest.approx((0.25, 0.25))
    noisy = [random.Random(1).random() for _ in range(25)]
    assert interval(noisy) == interval(noisy)


def test_the_interval_covers_the_mean_at_about_its_nominal_rate() -> None:
    rng = random.Random(0)
    covered = 0
    for trial in range(60):
        low, high = interval([rng.gauss(0.3, 0.2) for _ in range(25)], seed=trial)
        covered += low <= 0.3 <= high
    assert 52 <= covered <= 60


def test_demos_that_start_in_the_same_second_get_different_folders(tmp_path: Path) -> None:
    folders = [new_folder(tmp_path / "data") for _ in range(3)]
    assert len(set(folders)) == 3 and all(folder.is_dir() for folder in folders)


@pytest.mark.parametrize("steps", range(1, 6))
def test_the_server_accepts_a_demo_of_any_length(steps: int) -> None:
    for config in (supervised(["1/a"], steps, "full", 0), reinforcement(["1/a"], steps, "full", 0)):
        check_config(config, "full", None)
