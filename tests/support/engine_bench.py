"""Shared by the tests of engines: options, fixed texts, and transformers' logits for the same weights."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from server.engines.factory import make_engine
from server.engines.options import VllmOptions
from server.engines.protocol import Engine, Piece, Weights, spans_of

CORE = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % (os.cpu_count() or 1)
"""The core of this process's vLLM: tests that run in parallel share none."""
OPTIONS = VllmOptions(dtype="float32", max_model_len=4096, max_num_seqs=16, omp_threads_bind=str(CORE))
LONG = {"ignore_eos": True}
TEXT = list(range(200))  # longer than one KV block of 128: stale blocks only show beyond it


def logits_of(base: Path, weights: Weights, ids: list[int]) -> Any:
    """Return [T-1, V] logits of transformers on the merged weights."""
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
    """Return the descendants of this process that have the name in their command line."""
    processes = []
    for process in psutil.Process().children(recursive=True):
        try:
            if any(name in word for word in process.cmdline()):
                processes.append(process)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue  # It has just ended.
    return processes


def joined(pieces: list[Piece]) -> tuple[list[int], list[float], list[int]]:
    ids = [i for p in pieces for i in p.token_ids]
    logprobs = [x for p in pieces for x in p.logprobs]
    return ids, logprobs, [version for version, first, end in spans_of(pieces) for _ in range(first, end)]


def gap(one: list[float], other: list[float]) -> float:
    return sum(abs(a - b) for a, b in zip(one, other, strict=True)) / len(one)


@dataclass
class Vllm:
    """A vLLM started for one test, which serves the tiny model's full weights as version 1."""

    engine: Engine
    others: list[psutil.Process]
    """vLLM processes of other tests."""
    expected: list[float]
    """[T-1] logprobs of the text with these weights."""

    def servers(self) -> list[psutil.Process]:
        """Return the processes of its API server."""
        return [
            process
            for process in children("api_server")
            if process not in self.others and "child_process.py" not in " ".join(process.cmdline())
        ]

    async def until_healthy(self, timeout_s: float = 400.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not await self.engine.healthy():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.5)

    async def serves(self) -> None:
        """Check that it serves version 1 alone, with its weights."""
        assert self.engine.versions == {1}
        assert gap(await self.engine.score(1, TEXT), self.expected) < self.engine.check_tolerance


@asynccontextmanager
async def own_vllm(tiny: dict[str, Weights], directory: Path) -> AsyncIterator[Vllm]:
    """Start a vLLM, and check afterwards that all its processes have ended."""
    expected = logprobs_of(logits_of(tiny["base"].path, tiny["full"], TEXT), TEXT)
    others = children("vllm")
    engine = make_engine("vllm", directory, vllm=OPTIONS)
    await engine.start(tiny["base"], tiny["full"])
    try:
        yield Vllm(engine, others, expected)
    finally:
        await engine.close()
    assert children("vllm") == others
