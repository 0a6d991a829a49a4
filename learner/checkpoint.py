"""Checkpoints: what a learner needs to go on exactly where it stopped.

Trained weights, value head, optimiser, random state, the reference where it was reset, the global step and a hash of
the run's config. A checkpoint is written
beside its place and renamed into it, so that one either exists whole or not at all; the newest two are kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from clients.wire import RunConfig
from learner.step import Trainer

KEPT = 2


class CheckpointError(RuntimeError):
    """A checkpoint belongs to another run's config."""


def config_sha256(config: RunConfig) -> str:
    """Return the hash that ties a checkpoint to its run's config."""
    return hashlib.sha256(config.model_dump_json().encode()).hexdigest()


def save_checkpoint(trainer: Trainer, root: Path, step: int) -> Path:
    """Save the state after `step` finished learner steps; return its directory."""
    directory, unfinished = root / f"step-{step:06d}", root / f"step-{step:06d}.part"
    for stale in (unfinished, directory):
        if stale.exists():
            shutil.rmtree(stale)
    unfinished.mkdir(parents=True)
    weights = {name: p.detach().cpu().contiguous() for name, p in trainer.policy.trainable().items()}
    save_file(weights, unfinished / "weights.safetensors")
    if trainer.policy.value_head is not None:
        head = {name: p.detach().cpu() for name, p in trainer.policy.value_head.state_dict().items()}
        save_file(head, unfinished / "value_head.safetensors")
    facts: dict[str, Any] = {"step": step, "config_sha256": config_sha256(trainer.config)}
    reference = trainer.reference
    if reference is not None and reference.anchor and reference.weights is not None:
        facts["reference_anchor"] = reference.anchor
        kept = {name: p.cpu().contiguous() for name, p in reference.weights.items()}
        save_file(kept, unfinished / "reference.safetensors")
    torch.save({"optimiser": trainer.optimiser.state_dict(), "random": _random_state()}, unfinished / "optimiser.pt")
    (unfinished / "state.json").write_text(json.dumps(facts, indent=2))
    os.replace(unfinished, directory)
    for old in sorted(_checkpoints(root))[:-KEPT]:
        shutil.rmtree(_checkpoints(root)[old])
    return directory


def newest_checkpoint(root: Path, up_to: int) -> tuple[int, Path] | None:
    """Return step and directory of the newest checkpoint of at most `up_to` finished steps, if there is one."""
    steps = [step for step in _checkpoints(root) if step <= up_to]
    return (max(steps), _checkpoints(root)[max(steps)]) if steps else None


def load_checkpoint(trainer: Trainer, directory: Path) -> None:
    """Put a checkpoint's state into the trainer.

    Raises:
        CheckpointError: it was written under another config.
    """
    facts = json.loads((directory / "state.json").read_text())
    if facts["config_sha256"] != config_sha256(trainer.config):
        raise CheckpointError(f"{directory} was written under another config")
    trainer.policy.load_weights(load_file(directory / "weights.safetensors"))
    if trainer.policy.value_head is not None:
        trainer.policy.value_head.load_state_dict(load_file(directory / "value_head.safetensors"))
    if trainer.reference is not None and "reference_anchor" in facts:
        kept = load_file(directory / "reference.safetensors", device=str(trainer.policy.device))
        trainer.reference.set(facts["reference_anchor"], kept)
    state = torch.load(directory / "optimiser.pt", map_location="cpu", weights_only=True)
    trainer.optimiser.load_state_dict(state["optimiser"])
    torch.set_rng_state(state["random"]["cpu"])
    if torch.cuda.is_available() and "cuda" in state["random"]:
        torch.cuda.set_rng_state_all(state["random"]["cuda"])


def _checkpoints(root: Path) -> dict[int, Path]:
    """Return the whole checkpoints under `root` by step."""
    found = (d for d in root.glob("step-*") if d.is_dir() and d.suffix != ".part")
    return {int(directory.name.removeprefix("step-")): directory for directory in found}


def _random_state() -> dict[str, Any]:
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state
