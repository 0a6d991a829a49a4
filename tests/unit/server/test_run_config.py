"""What a run's config refuses before anything starts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from upturn.wire import COMPARING, Guards, LivePlan, PlayPlan, PlayRequest, RunConfig, TaskChoice

ALONE = PlayPlan(environment="textcraft", tasks=["1/x"], group_size=1)


@pytest.mark.parametrize("algorithm", COMPARING)
def test_an_algorithm_that_needs_groups_refuses_plays_without(algorithm: str) -> None:
    with pytest.raises(ValidationError, match=r"play\.group_size is 1: set it to 2 or more, or take reinforce_pp"):
        RunConfig(steps=1, algorithm=algorithm, play=ALONE)
    assert RunConfig(steps=1, algorithm="reinforce_pp", play=ALONE).play == ALONE


def test_a_guard_of_a_reference_needs_one() -> None:
    with pytest.raises(ValidationError, match="set kl_coef above 0"):
        RunConfig(steps=1, guards=Guards(max_reference_kl=1.0))
    assert RunConfig(steps=1, kl_coef=0.001, guards=Guards(max_reference_kl=1.0)).kl_coef == 0.001


def test_one_environment_is_short_for_environments_of_one() -> None:
    short = PlayPlan.model_validate_json('{"environment": "textcraft", "tasks": ["1/x"], "group_size": 1}')
    assert short == ALONE and short.choices == {"textcraft": TaskChoice(tasks=["1/x"])}
    mixed = PlayPlan.model_validate_json(
        '{"environments": {"textcraft": {"split": "train", "weight": 2}, "babyai": {"tasks": ["a", "b"]}}}'
    )
    assert mixed.choices == {"textcraft": TaskChoice(split="train", weight=2), "babyai": TaskChoice(tasks=["a", "b"])}
    assert PlayPlan.model_validate_json(mixed.model_dump_json()) == mixed


@pytest.mark.parametrize(
    "plan",
    [
        {},
        {"environment": "a"},
        {"environment": "a", "tasks": []},
        {"environment": "a", "tasks": ["x"], "split": "train"},
        {"environments": {}},
        {"environments": {"a": {}}},
        {"environments": {"a": {"split": "s", "weight": 0}}},
        {"environment": "a", "environments": {"b": {"split": "s"}}},
        {"environments": {"b": {"split": "s"}}, "split": "s"},
    ],
)
def test_a_play_names_its_environments_and_their_tasks_in_one_way(plan: dict) -> None:
    with pytest.raises(ValidationError):
        PlayPlan.model_validate(plan)


def test_a_play_of_several_environments_is_no_evaluation_and_names_each_once() -> None:
    request = {"environment": "a", "tasks": ["x"], "also": {"b": ["y", "z"]}, "horizon": 1}
    assert PlayRequest.model_validate(request).all_tasks == {"a": ["x"], "b": ["y", "z"]}
    for wrong in ({"purpose": "evaluation"}, {"also": {"a": ["x"]}}, {"also": {"b": []}}):
        with pytest.raises(ValidationError):
            PlayRequest.model_validate({**request, **wrong})


def test_the_page_on_training_data_has_every_field_and_an_example_that_is_a_config() -> None:
    page = (Path(__file__).parents[3] / "docs" / "training-data.md").read_text()
    fields = [name for model in (PlayPlan, TaskChoice, LivePlan) for name in model.model_fields]
    rows = "\n".join(line.rsplit("|", 3)[0] for line in page.splitlines() if line.startswith("|"))
    assert [name for name in fields if f"`{name}`" not in rows] == []
    (example,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    config = RunConfig.model_validate_json(example)
    assert config.model_dump(mode="json", exclude_unset=True) == json.loads(example)


@pytest.mark.parametrize(
    "fields", [{"play": None}, {"max_staleness": 0}, {"schedule": {"kind": "adaptive", "rounds": [2, 4]}}]
)
def test_overlap_needs_something_to_play_that_does_not_wait_for_the_step_before(fields: dict[str, object]) -> None:
    good = {"steps": 2, "overlap": True, "play": {"environment": "textcraft", "tasks": ["1/x"]}}
    assert RunConfig.model_validate(good).overlap
    with pytest.raises(ValidationError, match="overlap needs a play"):
        RunConfig.model_validate(good | fields)
