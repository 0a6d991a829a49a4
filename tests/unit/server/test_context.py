"""The default context is the model's own, as far as memory reaches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from server.models.context import MOST_ON_CPU, UNKNOWN, fitting_context

SMALL = {"hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3, "num_hidden_layers": 30}
GIB = 2**30


def model(home: Path, **config: Any) -> Path:
    """Write a model's configuration."""
    (home / "config.json").write_text(json.dumps(config))
    return home


@pytest.mark.parametrize("nested", [False, True])
def test_a_model_whose_context_fits_gets_it(tmp_path: Path, nested: bool) -> None:
    config = {**SMALL, "max_position_embeddings": 8192}
    chosen = fitting_context(model(tmp_path, **({"text_config": config} if nested else config)), GIB, 2, cache="cache")
    assert (chosen.tokens, chosen.reason) == (8192, "the model's own")


def test_a_small_cache_shortens_the_context_and_says_so(tmp_path: Path) -> None:
    path = model(tmp_path, **SMALL, max_position_embeddings=8192)
    per_token = 2 * 30 * 3 * 64 * 4
    chosen = fitting_context(path, 1000 * per_token, 4, cache="the key-value cache")
    assert chosen.tokens == 992, "whole blocks"
    assert chosen.reason == "of the model's 8192: the key-value cache holds no more"


def test_a_long_context_is_bounded_on_a_cpu(tmp_path: Path) -> None:
    chosen = fitting_context(model(tmp_path, **SMALL, max_position_embeddings=262_144), 64 * GIB, 2, cache="cache")
    assert chosen.tokens == MOST_ON_CPU and "engine.context_tokens" in chosen.reason


@pytest.mark.parametrize("config", [{}, {"max_position_embeddings": None}, {"max_position_embeddings": "many"}])
def test_a_model_that_does_not_say_its_context_gets_a_small_one(tmp_path: Path, config: dict[str, Any]) -> None:
    assert fitting_context(model(tmp_path, **config), GIB, 2, cache="cache").tokens == UNKNOWN


def test_a_model_that_does_not_say_its_layers_gets_its_own_context(tmp_path: Path) -> None:
    assert fitting_context(model(tmp_path, max_position_embeddings=4096), GIB, 2, cache="cache").tokens == 4096
