"""Checks that a directory holds a whole model in Hugging Face's layout, before anything reads it."""

from __future__ import annotations

import json
from pathlib import Path

from server.errors import BadRequest
from server.models.weights import read_entries

PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
LAYOUT = "a model directory has config.json, tokenizer.json, tokenizer_config.json and *.safetensors"


def check_complete(directory: Path) -> None:
    """Check a model's files.

    Raises:
        BadRequest: `bad_model`, naming the file that is missing, damaged, or of a form that is not read.
    """
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        if not (directory / name).is_file():
            raise _bad(f"{directory} has no {name}: {LAYOUT}")
        try:
            json.loads((directory / name).read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise _bad(f"{directory / name} cannot be read ({error}): download it again") from error
    if not any(directory.glob("*.safetensors")):
        pickled = [file.name for pattern in PICKLED for file in directory.glob(pattern)]
        if pickled:
            raise _bad(
                f"{directory} has pickled weights only ({pickled[0]}), which can run code when they are loaded: load "
                "them with transformers if you trust them, and write safetensors by `model.save_pretrained`"
            )
        raise _bad(f"{directory} has no weights: {LAYOUT}")
    read_entries(directory)


def check_context(directory: Path, context_tokens: int | None) -> None:
    """Check that the model can read as many tokens as wanted.

    A model that scales its positions reads more than its configuration says; the engine decides for those.

    Raises:
        BadRequest: `bad_model`, naming the model's own context.
    """
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    text = config.get("text_config") or config
    longest = text.get("max_position_embeddings")
    scaling = text.get("rope_scaling") or text.get("rope_parameters") or {}
    scaled = scaling.get("rope_type", scaling.get("type", "default")) != "default"
    if context_tokens and isinstance(longest, int) and context_tokens > longest and not scaled:
        raise _bad(
            f"engine.context_tokens is {context_tokens}, but {directory.name} reads at most {longest} tokens: "
            "lower it, or leave it out"
        )


def _bad(message: str) -> BadRequest:
    return BadRequest(message, param="model", code="bad_model")
