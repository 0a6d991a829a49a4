"""Writing a policy version to storage that the server shares (step 10 of the straight line).

A version is a directory. Its `manifest.json` is written last, so that a crash never leaves a directory that looks like
a version. Full weights have an explicit `lm_head.weight` even if it is tied to the embeddings: without it vLLM's reload
on a CPU silently keeps the old output layer. The probe comes from the weights *as published*, rounded to the published
dtype, and is computed in the engine's precision, so that the server's check compares like with like.
"""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from learner.model.policy import Policy
from learner.packing import pack
from learner.parallel import distributed
from learner.parallel.sharding import whole
from upturn.manifest import write_manifest
from upturn.wire import Probe, Sample

PROBE_TOKENS = 160
"""Longer than one KV block of 128 tokens: stale blocks only show after it."""

_PROBE_TEXT = (
    "You are standing in a room with a wooden table, two chairs and a closed door to the north. On the table lie "
    "a key, a map and 3 gold coins. Your goal: open the door and carry the map outside. "
    "Available actions: take, open, go, look. "
)
_COPIED = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "chat_template*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)


@dataclass(frozen=True)
class Version:
    """A written version, ready to be published."""

    directory: Path
    manifest_sha256: str
    probe: Probe


def write_version(policy: Policy, root: Path, step: int | None, facts: dict[str, Any]) -> Version:
    """Write the policy's weights into a new directory under `root`.

    Args:
        policy: the policy to publish.
        root: the run's directory of versions.
        step: learner step of the run, which names the directory; None is the state with which the run began. A step
            repeated after a crash gets a new directory.
        facts: entries of the manifest in addition to the files: run, horizon and the like.

    Raises:
        FloatingPointError: a weight is not finite; nothing is written.
    """
    weights = policy.rounded()
    directory = distributed.from_first(_new_directory, root, step)
    with policy.holding(weights):
        if policy.is_adapter:
            _write_adapter(policy, directory)
        else:
            _write_full(policy, directory)
        probe = probe_of(policy)
    kind = "adapter" if policy.is_adapter else "full"
    own = {"kind": kind, "base": str(policy.directory), "dtype": str(policy.dtype).removeprefix("torch."), "step": step}
    return Version(directory, distributed.from_first(write_manifest, directory, {**facts, **own}), probe)


def probe_of(policy: Policy) -> Probe:
    """Return the token ids [T] of a fixed text and their logprobs [T-1] under the policy at temperature 1."""
    ids = probe_token_ids(policy)
    rest = len(ids) - 1
    text = Sample(
        episode_id="probe",
        group=None,
        token_ids=ids,
        loss_mask=[0] + [1] * rest,
        logprobs=[0.0] * len(ids),
        temperatures=[1.0] * len(ids),
        reward=0.0,
    )
    (row,) = pack([text])
    with torch.no_grad():
        return Probe(token_ids=ids, logprobs=policy.logprobs(row).values.tolist())


def probe_token_ids(policy: Policy) -> list[int]:
    """Return the probe's token ids [T]: an English text, or a fixed sequence if there is no `tokenizer.json`."""
    vocabulary = policy.vocabulary
    file = policy.directory / "tokenizer.json"
    if not file.is_file():
        return [(7 * i + 3) % vocabulary for i in range(PROBE_TOKENS)]
    ids: list[int] = Tokenizer.from_file(str(file)).encode(_PROBE_TEXT, add_special_tokens=False).ids
    return (ids * (PROBE_TOKENS // len(ids) + 1))[:PROBE_TOKENS]


def version_bytes(policy: Policy) -> int:
    """Return the size of a version's weights on disk."""
    named = dict(policy.trainable())
    if not policy.is_adapter:
        named["lm_head.weight"] = policy.model.get_output_embeddings().weight
    return sum(parameter.numel() for parameter in named.values()) * policy.dtype.itemsize


def _new_directory(root: Path, step: int | None) -> Path:
    """Make and return `step-000012`, or `step-000012-2` and so on if it exists: a version is never overwritten."""
    name = "start" if step is None else f"step-{step:06d}"
    for attempt in count(1):
        directory = root / (name if attempt == 1 else f"{name}-{attempt}")
        if not directory.exists():
            directory.mkdir(parents=True)
            return directory
    raise AssertionError("count() does not end")


def _write_full(policy: Policy, directory: Path) -> None:
    """Write every tensor, also tied ones, under its Hugging Face name, with the base's config and tokenizer."""
    named = {"lm_head.weight": policy.model.get_output_embeddings().weight, **policy.model.state_dict()}
    weights = _stored(named, policy.dtype)

    def write() -> None:
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
        for pattern in _COPIED:
            for file in policy.directory.glob(pattern):
                if file.is_file():
                    shutil.copyfile(file, directory / file.name)
        _declare_dtype(directory / "config.json", str(policy.dtype).removeprefix("torch."))

    distributed.from_first(write)


def _declare_dtype(config: Path, dtype: str) -> None:
    """Let a copied config declare the dtype of the weights next to it, which may be wider than the base's."""
    described = json.loads(config.read_text())
    wrong = [key for key in ("dtype", "torch_dtype") if described.get(key, dtype) != dtype]
    if wrong:
        config.write_text(json.dumps({**described, **dict.fromkeys(wrong, dtype)}, indent=2) + "\n")


def _write_adapter(policy: Policy, directory: Path) -> None:
    """Write the adapter in peft's format."""
    weights = _stored(get_peft_model_state_dict(policy.model), policy.dtype)
    config = copy.copy(policy.model.peft_config["default"])
    config.inference_mode = True
    config.base_model_name_or_path = str(policy.directory)

    def write() -> None:
        save_file(weights, directory / "adapter_model.safetensors", metadata={"format": "pt"})
        config.save_pretrained(directory)

    distributed.from_first(write)


def _stored(named: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return whole copies in `dtype` that share no memory, which safetensors requires; empty except in process 0."""
    stored: dict[str, Tensor] = {}
    for name, tensor in named.items():
        gathered = whole(tensor.detach())
        if distributed.is_first():
            stored[name] = gathered.to("cpu", dtype, copy=True).contiguous()
    return stored
