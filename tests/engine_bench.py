"""What tests of engines share: options, fixed texts, and transformers' own opinion on the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil

from server.policy.engine import Piece, Weights, spans_of
from server.policy.engines import VllmOptions

OPTIONS = VllmOptions(dtype="float32", max_model_len=4096, max_num_seqs=16, omp_threads_bind="0")
LONG = {"ignore_eos": True}
TEXT = list(range(200))  # longer than one KV block of 128: stale blocks only show beyond it


def logits_of(base: Path, weights: Weights, ids: list[int]) -> Any:
    """[T-1, V] transformers' own logits on the merged weights."""
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    if weights.kind == "full":
        model.load_state_dict(load_file(weights.path / "model.safetensors"))
    if weights.kind == "adapter":
        model = PeftModel.from_pretrained(model, str(weights.path)).merge_and_unload()
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0, :-1]


def logprobs_of(logits: Any, ids: list[int]) -> list[float]:
    import torch

    return torch.log_softmax(logits, -1).gather(-1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()


def children(name: str) -> list[psutil.Process]:
    """Return our descendants with the name in their command line."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if any(name in word for word in process.cmdline()):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue  # it has just ended
    return found


def joined(pieces: list[Piece]) -> tuple[list[int], list[float], list[int]]:
    ids = [i for p in pieces for i in p.token_ids]
    logprobs = [x for p in pieces for x in p.logprobs]
    return ids, logprobs, [version for version, first, end in spans_of(pieces) for _ in range(first, end)]


def gap(one: list[float], other: list[float]) -> float:
    return sum(abs(a - b) for a, b in zip(one, other, strict=True)) / len(one)
