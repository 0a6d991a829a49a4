"""Fixtures shared by all tests."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.engines.protocol import Weights
from tests.support.live import Live, script, serving, settings_for
from upturn import logs

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # Before torch is loaded: several tests share the cores.


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The server runs on asyncio, whatever else is installed."""
    return "asyncio"


@pytest.fixture(autouse=True)
def unchanged_logging() -> Iterator[None]:
    """Undo what a command run in this process sets up, so that later tests do not print their servers' lines."""
    levels = {name: logging.getLogger(name).level for name in ("", *logs.OWN)}
    yield
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, logs._Stderr):
            root.removeHandler(handler)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    """A server with the scripted engine that plays nothing well but answers at once."""
    model = script(tmp_path / "script", "Hello there.", "Second answer.")
    with serving(settings_for(tmp_path / "data", model=str(model))) as running:
        yield running


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Weights]:
    """Base weights, full weights with an explicit head, and an adapter, all of the tiny model."""
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    from tests.support.tiny_model import make_tiny_model

    root = tmp_path_factory.mktemp("tiny")
    base = make_tiny_model(root / "base", seed=0)
    other = AutoModelForCausalLM.from_pretrained(make_tiny_model(root / "other", seed=1)).state_dict()
    (root / "full").mkdir()
    save_file({name: tensor.clone() for name, tensor in other.items()}, root / "full" / "model.safetensors")
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj", "gate_proj", "down_proj"])
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    torch.manual_seed(3)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.15)
    adapted.save_pretrained(root / "adapter")
    return {
        "base": Weights(0, "base", base),
        "full": Weights(1, "full", root / "full"),
        "adapter": Weights(2, "adapter", root / "adapter"),
    }
