"""Validation of a run's config: what is refused before anything starts, and which spellings are read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from server.settings import Settings
from upturn.wire import ALGORITHMS, Guards, LivePlan, PlayPlan, PlayRequest, RunConfig, RunRequest, TaskChoice
from upturn.wire.spelling import AMERICAN, warn_once

ALONE = PlayPlan(environment="textcraft", tasks=["1/x"], group_size=1)


BRITISH = {"optimiser": {"lr": 0.5}, "normalise_std": False, "loss_normalisation": "sample"}


@pytest.mark.parametrize("algorithm", [name for name, traits in ALGORITHMS.items() if traits.groups == "required"])
def test_an_algorithm_that_requires_groups_refuses_plays_without_them(algorithm: str) -> None:
    with pytest.raises(ValidationError, match=r"play\.group_size is 1: set it to 2 or more, or use reinforce_pp"):
        RunConfig(steps=1, algorithm=algorithm, play=ALONE)
    assert RunConfig(steps=1, algorithm="reinforce_pp", play=ALONE).play == ALONE


def test_a_guard_on_the_reference_kl_requires_a_kl_term() -> None:
    with pytest.raises(ValidationError, match="set kl_coef above 0"):
        RunConfig(steps=1, guards=Guards(max_reference_kl=1.0))
    assert RunConfig(steps=1, kl_coef=0.001, guards=Guards(max_reference_kl=1.0)).kl_coef == 0.001


def test_one_environment_is_short_for_a_mapping_with_one_environment() -> None:
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
def test_a_play_names_its_environments_and_tasks_in_exactly_one_way(plan: dict) -> None:
    with pytest.raises(ValidationError):
        PlayPlan.model_validate(plan)


def test_a_play_of_several_environments_cannot_be_an_evaluation_and_names_each_once() -> None:
    request = {"environment": "a", "tasks": ["x"], "also": {"b": ["y", "z"]}, "horizon": 1}
    assert PlayRequest.model_validate(request).all_tasks == {"a": ["x"], "b": ["y", "z"]}
    for wrong in ({"purpose": "evaluation"}, {"also": {"a": ["x"]}}, {"also": {"b": []}}):
        with pytest.raises(ValidationError):
            PlayRequest.model_validate({**request, **wrong})


def test_the_page_on_training_data_documents_every_field_and_its_example_is_valid() -> None:
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
def test_overlap_requires_a_play_that_does_not_depend_on_the_previous_step(fields: dict[str, object]) -> None:
    good = {"steps": 2, "overlap": True, "play": {"environment": "textcraft", "tasks": ["1/x"]}}
    assert RunConfig.model_validate(good).overlap
    with pytest.raises(ValidationError, match="overlap needs a play"):
        RunConfig.model_validate(good | fields)


def test_british_keys_are_read_with_one_warning_each_and_american_ones_are_written(
    caplog: pytest.LogCaptureFixture,
) -> None:
    warn_once.cache_clear()
    configs = [
        RunConfig.model_validate({"steps": 1, **BRITISH}),
        RunConfig.model_validate_json(json.dumps({"steps": 1, **BRITISH})),
        RunConfig.model_validate({"steps": 1, **{AMERICAN[key]: value for key, value in BRITISH.items()}}),
    ]
    assert configs[0] == configs[1] == configs[2]
    assert (configs[0].optimizer.lr, configs[0].normalize_std, configs[0].loss_normalization) == (0.5, False, "sample")
    assert [r.getMessage() for r in caplog.records] == [
        f"the key {british} of run configs is deprecated: use {american}" for british, american in AMERICAN.items()
    ]
    assert AMERICAN.keys().isdisjoint(configs[0].model_dump(mode="json"))
    assert RunConfig.model_validate_json(configs[0].model_dump_json()) == configs[0]


@pytest.mark.parametrize(("british", "american"), AMERICAN.items())
def test_a_key_in_both_spellings_is_refused(british: str, american: str) -> None:
    with pytest.raises(ValidationError, match=f"{american} and {british} are two spellings of one key"):
        RunConfig.model_validate({"steps": 1, british: BRITISH[british], american: BRITISH[british]})


@pytest.mark.parametrize("mode", ["validation", "serialization"])
def test_schemas_show_american_keys_only(mode: str) -> None:
    schema = RunRequest.model_json_schema(mode=mode)["$defs"]["RunConfig"]["properties"]  # type: ignore[arg-type]
    assert set(AMERICAN.values()) <= schema.keys() and AMERICAN.keys().isdisjoint(schema)


@pytest.mark.parametrize("key", ["optimise", "normalise", "loss_normaliser"])
def test_other_unknown_keys_are_still_refused(key: str) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        RunConfig.model_validate({"steps": 1, key: 1})


def test_british_keys_are_read_from_toml_the_environment_and_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "upturn.toml"
    file.write_text("[schedule.run]\nsteps = 1\nnormalise_std = false\n[schedule.run.optimiser]\nlr = 0.5\n")
    run = Settings.load(["--config", str(file)]).schedule.run
    assert run is not None and (run.optimizer.lr, run.normalize_std) == (0.5, False)
    run = Settings.load(["--config", str(file), "--schedule.run.loss-normalisation", "sample"]).schedule.run
    assert run is not None and run.loss_normalization == "sample"
    monkeypatch.setenv("UPTURN_SCHEDULE__RUN__LOSS_NORMALISATION", "constant")
    run = Settings.load(["--config", str(file)]).schedule.run
    assert run is not None and run.loss_normalization == "constant"
