"""Advantages compare the episodes of a group."""

from __future__ import annotations

import pytest

from learner.algorithms.grpo import grpo_advantages
from tests.unit.test_learner_samples import sample


def rewarded(rewards: dict[str, float], group: str | None = "g"):
    return [sample([1, 2], [0, 1], episode=e, group=group, reward=r) for e, r in rewards.items()]


def test_grpo_divides_by_the_unbiased_std_and_dr_grpo_does_not():
    samples = rewarded({"a": 1.0, "b": 0.0})
    assert grpo_advantages(samples) == pytest.approx({"a": 0.7071, "b": -0.7071}, abs=1e-4)
    assert grpo_advantages(samples, normalise_std=False) == {"a": 0.5, "b": -0.5}


def test_an_episode_with_several_branches_counts_once():
    once = rewarded({"a": 1.0, "b": 0.0, "c": 0.0})
    assert grpo_advantages([*once, once[0], once[0]]) == grpo_advantages(once)


def test_groups_are_never_compared_with_each_other():
    samples = rewarded({"a": 1.0, "b": 0.0}, "g") + rewarded({"c": 100.0, "d": 0.0}, "h")
    assert grpo_advantages(samples)["a"] == pytest.approx(grpo_advantages(samples)["c"], rel=1e-4)


def test_no_variance_a_single_episode_and_no_group_give_no_advantage():
    assert grpo_advantages(rewarded({"a": 1.0, "b": 1.0})) == {}
    assert grpo_advantages(rewarded({"a": 1.0})) == {}
    assert grpo_advantages(rewarded({"a": 1.0, "b": 0.0}, None)) == {}
