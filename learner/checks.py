"""What is wrong with what a run was given, in one line that says what to do; found before any weight changes.

Errors of the batch, the model's directory and the machine's memory. A run that meets one ends as failed
with that line as its reason.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from learner.parallel import distributed
from upturn.wire import BatchView, RunConfig, Sample

_GIB = 2**30


class BadInput(ValueError):
    """What a run was given cannot be trained on; the message says what to do."""


class BadBatch(BadInput):
    """A batch is not one."""


class BadModel(BadInput):
    """A directory does not hold a model that can be trained."""


class TooLittleMemory(BadInput):
    """The model, or a row of its tokens, does not fit."""


def check_batch(samples: Sequence[Sample], config: RunConfig, vocabulary: int) -> None:
    """Refuse a batch that is not one.

    Args:
        samples: [S] the batch.
        config: the run's.
        vocabulary: how many token ids the model knows.

    Raises:
        BadBatch: its lists differ in length, a reward is not finite, or a token is none of the model's.
        BadInput: an algorithm that needs groups got none.
    """
    for s in samples:
        lengths = [len(s.token_ids), len(s.loss_mask), len(s.logprobs), len(s.temperatures)]
        if len(set(lengths)) != 1:
            raise BadBatch(
                f"the lists of a sample of episode {s.episode_id} differ in length: {lengths} token ids, "
                "mask, logprobs and temperatures; erase the episode and lease the batch again"
            )
        if not math.isfinite(s.reward):
            raise BadBatch(f"the reward of episode {s.episode_id} is {s.reward}: correct it or erase the episode")
        if s.token_ids and not 0 <= min(s.token_ids) <= max(s.token_ids) < vocabulary:
            raise BadBatch(
                f"episode {s.episode_id} has token ids {min(s.token_ids)} to {max(s.token_ids)}, and the "
                f"model knows 0 to {vocabulary - 1}: engine and learner have different tokenizers, give "
                "both the same model"
            )
        if any(m and not t > 0 for m, t in zip(s.loss_mask, s.temperatures, strict=True)):
            raise BadBatch(
                f"episode {s.episode_id} trains tokens that were sampled at temperature 0: sample at a "
                "temperature above 0"
            )
    if samples and config.traits.groups == "required" and all(s.group is None for s in samples):
        raise BadInput(
            f"{config.algorithm} compares the episodes of a group, and no episode has one: name a group "
            "when episodes are opened, or take reinforce_pp or ppo"
        )


def check_groups(batch: BatchView, config: RunConfig) -> None:
    """Refuse to go through all steps of a live run whose episodes are never in a group.

    Raises:
        BadInput: the algorithm compares episodes, and each one recorded stands alone.
    """
    grouped = batch.groups + batch.groups_without_variance
    required = config.traits.groups == "required"
    if required and config.play is None and batch.groups_incomplete > 1 and not grouped:
        raise BadInput(
            f"{config.algorithm} compares the episodes of a group, and none of the {batch.episodes} "
            "recorded ones has another beside it: name a group when episodes are opened, or take "
            "reinforce_pp or ppo"
        )


def check_model(directory: Path, config: RunConfig, device: torch.device) -> None:
    """Refuse a directory that holds no model, or one that does not fit.

    Raises:
        BadModel: a file is missing or broken.
        TooLittleMemory: training would need more memory than is free.
    """
    if not (directory / "config.json").is_file():
        raise BadModel(
            f"{directory} is not a model: it has no config.json; give the server a directory that transformers can load"
        )
    try:
        described = json.loads((directory / "config.json").read_text())
    except ValueError as error:
        raise BadModel(f"{directory}/config.json is not JSON ({error}): copy the model again") from error
    files = sorted(directory.glob("*.safetensors"))
    if not files and any(directory.glob("*.bin")):
        return  # PyTorch's own format says nothing before it is read
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
    needed, free = needed_bytes(parameters, stored_bytes, config) / distributed.count(), free_bytes(device)
    if free is not None and needed > free:
        advice = (
            "train an adapter (kind = 'adapter') or a smaller model"
            if config.kind == "full"
            else "take a smaller model"
        )
        raise TooLittleMemory(
            f"training {parameters / 1e6:.0f} M parameters needs {needed / _GIB:.1f} GiB before the "
            f"first token, and {free / _GIB:.1f} GiB are free: {advice}, or free memory"
        )


def needed_bytes(parameters: int, stored_bytes: int, config: RunConfig) -> int:
    """Return what training holds whatever the batch: weights, gradients, two moments, and a reference's copy.

    Args:
        parameters: of the model.
        stored_bytes: of its files.
        config: the run's. An adapter's own share is left out: it is small beside its base.
    """
    if config.kind == "adapter":
        return stored_bytes
    has_reference = config.traits.needs_reference or config.kl_coef > 0
    return parameters * 4 * (5 if has_reference else 4)


def free_bytes(device: torch.device) -> int | None:
    """Return how much memory a learner could take on a device; None where the machine does not say."""
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
    """Say what to do where a step runs out of memory.

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
