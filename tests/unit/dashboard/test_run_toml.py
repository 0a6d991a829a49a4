"""Run configs as TOML: what is written reads back, and what cannot be read is named."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.dashboard.toml_text import read_run, write_run, write_table
from server.errors import BadRequest
from upturn.wire import AdaptiveHorizon, EvaluationPlan, FixedHorizon, LivePlan, PlayPlan, RunConfig, StepwiseHorizon

CONFIGS = [
    RunConfig(steps=1),
    RunConfig(
        steps=3, schedule=FixedHorizon(horizon=4), kl_coef=1e-3, overlap=False, live=LivePlan(sources=["a b", 'c"d'])
    ),
    RunConfig(
        steps=40,
        campaign="nightly",
        schedule=StepwiseHorizon(rounds=[10, 20, 30], every=100),
        play=PlayPlan(environments={"textcraft": {"split": "train"}, "odd/inline:x": {"tasks": ["ä\n", "\x7f\\"]}}),
        evaluation=EvaluationPlan(tasks={"odd/inline:x": ["one", "two"]}, guards={"babyai": "test"}),
    ),
    RunConfig(steps=2, schedule=AdaptiveHorizon(rounds=[1, 2]), algorithm="sft"),
]
VALUES = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("config", CONFIGS)
def test_a_written_config_reads_back_the_same_as_a_table_and_by_itself(config: RunConfig) -> None:
    text = write_run(config)
    assert text.startswith("[schedule.run]\n") and read_run(text) == config
    fields = tomllib.loads(text)["schedule"]["run"]
    assert read_run(write_table("x", fields).partition("\n")[2].replace("[x.", "[")) == config


@given(st.dictionaries(st.text(), VALUES, max_size=4))
def test_every_table_is_valid_toml_with_the_same_values(fields: dict[str, Any]) -> None:
    assert tomllib.loads(write_table("name", fields)) == {"name": fields}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps", "this is not TOML"),
        ("steps = 1\nsteps = 2", "this is not TOML"),
        ("[schedule.run]\nsteps = 0", "steps: "),
        ("steps = 2026-01-01", "steps: "),
        ("steps = nan", "steps: "),
        ("steps = 1\nplay = {environment = 3}", "play.environment: "),
        ("x = " + "[" * 5000, "TOML"),
    ],
)
def test_what_cannot_be_read_is_named(text: str, said: str) -> None:
    with pytest.raises(BadRequest) as refused:
        read_run(text)
    assert said in refused.value.message
