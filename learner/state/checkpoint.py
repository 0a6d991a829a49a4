"""Checkpoints: the state from which a learner continues exactly where it stopped, with any number of processes.

A checkpoint holds trained weights, value head, optimizer, random state, the reference if it was reset, the global step
and a hash of the run's config. PyTorch's distributed checkpoint writes each process's parts, and reads them into
different parts if needed. A checkpoint is written under a temporary name and renamed, so that it exists whole or not at
all; the newest two are kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from learner.parallel import distributed
from learner.step import Trainer
from upturn.wire import RunConfig
from upturn.wire.spelling import to_british

log = logging.getLogger(__name__)
KEPT = 2
"""Number of checkpoints kept per run."""
_LATER: Mapping[str, tuple[str, ...]] = {
    "": ("campaign", "entropy_coef"),
    "evaluation": ("draw", "report", "guards", "rounds"),
    "live": ("unused_only", "max_reuse", "min_episodes"),
    "play": ("resample",),
}
"""Fields of a config, and of its parts, that existing checkpoints lack."""


class CheckpointError(RuntimeError):
    """A checkpoint belongs to another config, or cannot be written or read."""


def config_sha256(config: RunConfig) -> str:
    """Return the hash that ties a checkpoint to its run's config; over British keys, as in existing checkpoints.

    A field that existing checkpoints lack counts only if it is set.
    """
    complete = config.resolved("full")  # They name the kind and the learning rate.
    unset: dict[str, Any] = {name: True for name in _LATER[""] if _is_default(complete, name)}
    for part, names in _LATER.items():
        inner = getattr(complete, part, None)
        if inner is not None:
            unset[part] = {name for name in names if _is_default(inner, name)}
    return hashlib.sha256(to_british(complete.model_dump_json(exclude=unset)).encode()).hexdigest()


def save_checkpoint(trainer: Trainer, root: Path, step: int) -> Path:
    """Save the state after `step` finished learner steps; return its directory.

    What could not be written whole leaves nothing on the disk, which may be full.

    Raises:
        CheckpointError: it cannot be written.
        OSError: it cannot be written.
    """
    directory, unfinished = root / f"step-{step:06d}", root / f"step-{step:06d}.part"

    def begin() -> None:
        for stale in (*root.glob("*.part"), directory):
            if stale.exists():
                shutil.rmtree(stale)
        unfinished.mkdir(parents=True)

    def finish() -> None:
        facts: dict[str, Any] = {"step": step, "config_sha256": config_sha256(trainer.config)}
        if trainer.reference is not None and _reference_of(trainer):
            facts["reference_anchor"] = trainer.reference.anchor
        (unfinished / "state.json").write_text(json.dumps(facts, indent=2))
        os.replace(unfinished, directory)
        for old in sorted(_checkpoints(root))[:-KEPT]:
            shutil.rmtree(_checkpoints(root)[old])

    distributed.from_first(begin)
    try:
        with _plain_errors(unfinished):
            save(_state(trainer), storage_writer=FileSystemWriter(unfinished), **_processes())
        distributed.from_first(finish)
    except Exception:
        if distributed.is_first():
            shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return directory


def newest_checkpoint(root: Path, up_to: int) -> tuple[int, Path] | None:
    """Return step and directory of the newest checkpoint after at most `up_to` finished steps; None if none exists."""
    steps = [step for step in _checkpoints(root) if step <= up_to]
    return (max(steps), _checkpoints(root)[max(steps)]) if steps else None


def forget_later(root: Path, steps: int) -> None:
    """Delete the checkpoints after more than `steps` finished steps.

    The server has not recorded these steps: the learner was killed before it could acknowledge them, or the database
    is a backup. They are trained again, perhaps on other episodes.
    """
    for step, directory in _checkpoints(root).items():
        if step > steps:
            log.warning("%s is deleted: the server has recorded %d steps", directory, steps)
            shutil.rmtree(directory)


def load_checkpoint(trainer: Trainer, directory: Path) -> None:
    """Load a checkpoint into a trainer that has not trained yet.

    Raises:
        CheckpointError: the checkpoint was written under another config, or is broken.
    """
    facts = json.loads((directory / "state.json").read_text())
    if facts["config_sha256"] != config_sha256(trainer.config):
        raise CheckpointError(f"{directory} was written under another config")
    if trainer.reference is not None and "reference_anchor" in facts:
        trainer.reference.set(facts["reference_anchor"], trainer.policy.snapshot())
    reader = FileSystemReader(directory)
    with _plain_errors(directory):
        known = reader.read_metadata().state_dict_metadata
        for name, p in _parameters(trainer).items():
            if f"optimiser.{name}.step" in known:
                trainer.optimizer.state[p] = {
                    "step": torch.zeros((), device=p.device),
                    "exp_avg": torch.zeros_like(p),
                    "exp_avg_sq": torch.zeros_like(p),
                }
        state = {
            name: tensor for name, tensor in _state(trainer).items() if name in known or not name.startswith("random.")
        }
        load(state, storage_reader=reader, **_processes())
    torch.set_rng_state(state["random.cpu"])
    if "random.cuda" in state:
        torch.cuda.set_rng_state(state["random.cuda"])


def state_bytes(trainer: Trainer) -> int:
    """Return the size of a checkpoint of a trainer that has trained a step, over all processes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in _state(trainer).values())


def _is_default(message: BaseModel, name: str) -> bool:
    field = type(message).model_fields[name]
    return bool(getattr(message, name) == field.get_default(call_default_factory=True))


def _checkpoints(root: Path) -> dict[int, Path]:
    """Return the complete checkpoints under `root` by step."""
    directories = (d for d in root.glob("step-*") if d.is_dir() and d.suffix != ".part")
    return {int(directory.name.removeprefix("step-")): directory for directory in directories}


def _parameters(trainer: Trainer) -> dict[str, Tensor]:
    """Return the parameters that the optimizer updates, by name."""
    head = trainer.policy.value_head
    values = {} if head is None else {f"value_head.{name}": p for name, p in head.named_parameters()}
    return {f"weights.{name}": p for name, p in trainer.policy.trainable().items()} | values


def _state(trainer: Trainer) -> dict[str, Tensor]:
    """Return all tensors of a checkpoint; except for the random state they share memory with the trainer's.

    The prefix `optimiser.` is part of the format on disk.
    """
    state = {name: p.detach() for name, p in _parameters(trainer).items()}
    for name, p in _parameters(trainer).items():
        state |= {f"optimiser.{name}.{moment}": kept for moment, kept in trainer.optimizer.state.get(p, {}).items()}
    state |= {f"reference.{name}": p for name, p in _reference_of(trainer).items()}
    state["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        state["random.cuda"] = torch.cuda.get_rng_state()
    return state


def _reference_of(trainer: Trainer) -> dict[str, Tensor]:
    """Return the reference's weights that a checkpoint needs: after a reset, and in a campaign always."""
    reference = trainer.reference
    if reference is None or reference.weights is None or not (reference.anchor or trainer.config.campaign):
        return {}
    return reference.weights


def _processes() -> dict[str, Any]:
    return {"process_group": distributed.control(), "no_dist": distributed.count() == 1}


@contextlib.contextmanager
def _plain_errors(directory: Path) -> Iterator[None]:
    """Turn the distributed checkpoint's errors into `CheckpointError`: its own class is not an Exception."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # one process is intended
            yield
    except CheckpointException as error:
        for failure, _ in error.failures.values():
            if not isinstance(failure, Exception):  # a stop that arrived during the write
                raise failure from None
        causes = "; ".join(str(failure[0]) for failure in error.failures.values())
        # PyTorch says of a full disk only that a file has an unexpected position.
        free = f"{shutil.disk_usage(directory.parent).free / 2**20:,.0f} MiB are free on its disk"
        raise CheckpointError(f"{directory} cannot be written or read, {free}: {causes}") from error
