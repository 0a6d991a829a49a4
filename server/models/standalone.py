"""Writes a policy version as a directory that other programs load: whole weights, or an adapter, with the tokenizer.

Only `merge` imports torch, transformers and peft.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from server.errors import BadRequest
from server.models.complete import check_complete
from server.models.source import SMOLLM2
from server.models.weights import validate_adapter

_TOKENIZER = (
    "tokenizer*",
    "chat_template*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
)
_MODEL = ("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", *_TOKENIZER)
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
_HUB_FOLDER = re.compile(r"models--([\w.-]+?)--([\w.-]+)")


def copy_model(directory: Path, into: Path) -> None:
    """Copy whole weights with their configuration and tokenizer; links become files.

    Raises:
        BadRequest: the directory does not hold a complete model.
    """
    check_complete(directory)
    _copy(directory, into, _MODEL)


def copy_adapter(adapter: Path, base: Path, base_name: str, into: Path) -> None:
    """Copy an adapter with the base's tokenizer; its configuration names the base as `base_name`.

    Raises:
        BadRequest: the directory does not hold a LoRA adapter.
    """
    validate_adapter(adapter)
    _copy(adapter, into, _ADAPTER)
    _copy(base, into, _TOKENIZER)
    file = into / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "base_model_name_or_path": base_name}, indent=2, sort_keys=True) + "\n")


def merge(base: Path, adapter: Path, into: Path) -> None:
    """Write the base with an adapter added to its weights, in the base's data type; the sum is made in float32.

    Raises:
        BadRequest: the adapter does not fit the base.
        ModuleNotFoundError: the packages of the learner are not installed.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM

    validate_adapter(adapter, base)
    stored = getattr(AutoConfig.from_pretrained(base), "dtype", None) or torch.float32
    dtype = getattr(torch, stored) if isinstance(stored, str) else stored
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload(safe_merge=True)
    merged.to(dtype).save_pretrained(into)
    _copy(base, into, ("generation_config.json", *_TOKENIZER))
    check_complete(into)


def public_name(base: Path) -> str | None:
    """Return the base's name on the model hub, where its directory says it."""
    if base.name == SMOLLM2:
        return "HuggingFaceTB/SmolLM2-135M-Instruct"
    found = next((match for folder in base.parts if (match := _HUB_FOLDER.fullmatch(folder))), None)
    return f"{found[1]}/{found[2]}" if found else None


def _copy(directory: Path, into: Path, patterns: tuple[str, ...]) -> None:
    files = {file for pattern in patterns for file in directory.glob(pattern) if file.is_file()}
    if not files:
        raise BadRequest(f"{directory} lacks {', '.join(patterns)}", code="bad_model")
    for file in files:
        shutil.copyfile(file, into / file.name)
