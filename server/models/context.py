"""How long a context a model can have on this machine: its own, as far as memory reaches."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MOST_ON_CPU = 32_768
"""Longest default context on a CPU, in tokens: a prompt is read whole there, and other requests wait for it (this
project's choice). A setting may exceed it."""
UNKNOWN = 2048
"""Context of a model whose configuration does not say its own, in tokens (this project's choice)."""
MEMORY_SHARE = 4
"""The machine's memory divided by this is for keys and values of one conversation, where no cache is reserved
(this project's choice)."""
_BLOCK = 32
"""Tokens of one block of vLLM's cache on a CPU."""


@dataclass(frozen=True, slots=True)
class Context:
    """A context that was chosen for a model."""

    tokens: int
    reason: str
    """Why it is this long, in a few words."""


def fitting_context(directory: Path, cache_bytes: int, value_bytes: int, *, cache: str) -> Context:
    """Return the longest context that a cache holds, at most the model's own.

    Args:
        directory: the model.
        cache_bytes: size of the cache for keys and values.
        value_bytes: bytes of one value in it.
        cache: what limits the cache, for the reason.
    """
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    text = config.get("text_config") or config
    own = text.get("max_position_embeddings")
    if not isinstance(own, int) or own < 1:
        return Context(UNKNOWN, "as the model does not say its own")
    per_token = _cache_bytes_per_token(text, value_bytes)
    held = cache_bytes // per_token // _BLOCK * _BLOCK if per_token else own
    tokens = min(own, held, MOST_ON_CPU)
    if tokens == own:
        return Context(own, "the model's own")
    limit = f"{cache} holds no more" if tokens == held else "the most on a CPU unless engine.context_tokens is set"
    return Context(tokens, f"of the model's {own}: {limit}")


def memory_bytes() -> int:
    """Return the size of this machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _cache_bytes_per_token(text: dict[str, Any], value_bytes: int) -> int:
    """Return the size of one token's keys and values in all layers, or 0 if the configuration does not say it."""
    try:
        heads = int(text["num_attention_heads"])
        per_head = int(text.get("head_dim") or text["hidden_size"] // heads)
        return (
            2 * int(text["num_hidden_layers"]) * int(text.get("num_key_value_heads") or heads) * per_head * value_bytes
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return 0
