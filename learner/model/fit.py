"""Checks that a directory holds a model and that training it fits the machine's memory.

Each error is one line that says what to do, as in `checks.py`.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from learner.checks import BadInput
from learner.parallel import distributed
from upturn.wire import RunConfig

_GIB = 2**30


class BadModel(BadInput):
    """A directory does not hold a model that can be trained."""


class TooLittleMemory(BadInput):
    """The model, or a row of its tokens, does not fit into memory."""


def check_model(directory: Path, config: RunConfig, device: torch.device, precision: torch.dtype | None = None) -> None:
    """Refuse a directory without a complete model, or a model that does not fit.

    Args:
        directory: the model.
        config: the run's config.
        device: the device to train on.
        precision: data type in which an adapter's base is held; None is as stored.

    Raises:
        BadModel: a file is missing or broken.
        TooLittleMemory: training would need more memory than is free.
    """
    if not (directory / "config.json").is_file():
        raise BadModel(
            f"{directory} is not a model, since it has no config.json: give the server a directory that "
            "transformers can load"
        )
    try:
        described = json.loads((directory / "config.json").read_text())
    except ValueError as error:
        raise BadModel(f"{directory}/config.json is not JSON ({error}): copy the model again") from error
    files = sorted(directory.glob("*.safetensors"))
    if not files and any(directory.glob("*.bin")):
        return  # PyTorch's own format shows no shapes until it is loaded
    if not files:
        raise BadModel(f"{directory} has no weights (*.safetensors): convert or copy the model again")
    parameters, stored_bytes = 0, 0
    for file in files:
        try:
            with safe_open(file, framework="pt") as weights:
                shapes = [
                    weights.get_slice(name).get_shape()
                    for name in weights.keys()  # noqa: SIM118
                    if not (name == "lm_head.weight" and described.get("tie_word_embeddings"))
                ]
        except (SafetensorError, OSError) as error:
            raise BadModel(f"{file} is broken ({error}): copy the model again") from error
        parameters += sum(math.prod(shape) for shape in shapes)
        stored_bytes += file.stat().st_size
    held_bytes = stored_bytes if precision is None else parameters * precision.itemsize
    needed, free = needed_bytes(parameters, held_bytes, config) / distributed.count(), free_bytes(device)
    if free is not None and needed > free:
        advice = (
            "train an adapter (kind = 'adapter') or a smaller model"
            if config.kind != "adapter"
            else "use a smaller model"
        )
        raise TooLittleMemory(
            f"training {parameters / 1e6:.0f} M parameters needs {needed / _GIB:.1f} GiB before the "
            f"first token, but only {free / _GIB:.1f} GiB are free: {advice}, or free memory"
        )


def needed_bytes(parameters: int, held_bytes: int, config: RunConfig) -> int:
    """Return the memory that training takes before any batch: weights, gradients, two moments, a reference.

    Args:
        parameters: the model's number of parameters.
        held_bytes: size of an adapter's frozen base in memory.
        config: the run's config. An adapter's own share is left out: it is small compared with its base.
    """
    if config.kind == "adapter":
        return held_bytes
    has_reference = config.traits.needs_reference or config.kl_coef > 0
    return parameters * 4 * (5 if has_reference else 4)


def free_bytes(device: torch.device) -> int | None:
    """Return the memory that a learner could take on a device; None if the machine does not report it."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return min(free, int(total * torch.cuda.get_per_process_memory_fraction(device)))
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        (available,) = (int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError):
        return None
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # "max", or no such group: the machine's own memory counts
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        cached = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())["inactive_file"]
        available = min(available, limit - used + int(cached))
    return available


@contextlib.contextmanager
def memory_advice(max_row_tokens: int) -> Iterator[None]:
    """Turn an out-of-memory error inside the `with` block into one that says what to do.

    Raises:
        TooLittleMemory: instead of torch's own error.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise TooLittleMemory(
            "a row of tokens does not fit into memory: start the learner with "
            f"--activation-checkpointing, or with --max-row-tokens below {max_row_tokens}, or train "
            "an adapter"
        ) from error
