"""The rules of reward sources, and the values that scorers may return."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from server.feedback.judge import read_answer
from server.feedback.verdict import BadScore, read_values
from server.rewards.rules import Rules
from server.rewards.settings import JudgeSettings, RewardSettings
from upturn.wire import RewardRequest, RewardRule


def test_the_reward_adds_the_environments_to_each_sources_capped_and_weighted_sum() -> None:
    rules = Rules({"judge": RewardRule(weight=0.5, cap=2.0), "*": RewardRule(weight=2.0, cap=1.0)})
    assert rules.total([0.25, 0.25], []) == 0.5
    assert rules.total([], [("judge", 3.0), ("judge", -0.5)]) == 1.0, "the cap applies to the sum"
    assert rules.total([], [("judge", -3.0), ("judge", -3.0)]) == -1.0
    assert rules.total([1.0], [("judge", 1.0), ("user", 5.0), ("other", -0.25)]) == 1.0 + 0.5 + 2.0 - 0.5


def test_ignored_rewards_are_treated_as_never_given() -> None:
    rules = Rules({"bot": RewardRule(blocked=True), "log": RewardRule(weight=0.0), "none": RewardRule(cap=0.0)})
    assert rules.total([], [("bot", 9.0), ("log", 9.0)]) is None
    assert rules.total([], [("bot", 9.0), ("user", -1.0)]) == -1.0
    assert rules.total([0.0], [("bot", 9.0)]) == 0.0
    assert rules.total([], [("none", 9.0)]) == 0.0
    only_known = Rules({"*": RewardRule(weight=0.0), "judge": RewardRule()})
    assert only_known.total([], [("made-up", 9.0)]) is None
    assert only_known.total([], [("made-up", 9.0), ("judge", 1.0)]) == 1.0


def test_the_order_of_rewards_has_no_effect() -> None:
    given = [("user", 0.1), ("user", 1e5), ("judge", 0.2), ("user", -1e5), ("judge", 0.3)]
    assert Rules({}).total([0.7, 0.1], given) == Rules({}).total([0.1, 0.7], given[::-1])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.1e6, 1.1e6, True, "1"])
def test_a_reward_is_a_number_within_bounds(value: Any) -> None:
    with pytest.raises(ValidationError):
        RewardRequest(value=value)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (None, {}),
        (1, {None: 1.0}),
        (-0.5, {None: -0.5}),
        (True, {None: 1.0}),
        ({0: 1, 2: -1.0}, {0: 1.0, 2: -1.0}),
        ({}, {}),
    ],
)
def test_a_function_may_return_a_number_numbers_by_turn_or_none(given: object, found: dict[int | None, float]) -> None:
    assert read_values(given, {0, 2}) == found


@pytest.mark.parametrize(
    "given", ["1", [1.0], float("nan"), float("inf"), 1e7, {1: 1.0}, {"0": 1.0}, {True: 1.0}, {0: None}, 1j]
)
def test_any_other_return_value_is_refused(given: object) -> None:
    with pytest.raises(BadScore):
        read_values(given, {0, 2})


def test_a_verdict_is_one_json_object_and_nothing_else() -> None:
    assert read_answer('{"score": 0.5, "reason": "fine"}', (0, 1)).score == 0.5
    assert read_answer(' ```json\n{"score": 1}\n``` ', (0, 1)).score == 1
    for text in (
        "",
        "0.5",
        "Score: 0.5",
        '{"score": "0.5"}',
        '{"score": true}',
        '{"score": NaN}',
        '{"score": 2}',
        '{"score": -0.1}',
        '{"score": 1, "grade": 1}',
        '{"reason": "none"}',
        'Sure! {"score": 1}',
        '{"score": 1} {"score": 0}',
        "[]",
        "null",
    ):
        with pytest.raises(BadScore):
            read_answer(text, (0, 1))


def test_contradictory_settings_are_refused() -> None:
    judge = {"url": "http://127.0.0.1:1/v1", "model": "m", "rubric": "r"}
    for scale in ((1.0, 0.0), (0.0, float("nan")), (0.0, 1e9)):
        with pytest.raises(ValidationError):
            JudgeSettings.model_validate({**judge, "scale": scale})
    for wrong in (
        {"sources": {"*": {}}},
        {"sources": {"a": {"weight": -1.0}}},
        {"functions": {"a": {"function": "x"}}},
        {"functions": {"a": {"function": "x:y"}}, "judges": {"a": judge}},
        {"default_weight": -1},
    ):
        with pytest.raises(ValidationError):
            RewardSettings.model_validate(wrong)
