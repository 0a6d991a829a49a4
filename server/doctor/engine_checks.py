"""The doctor's checks with a started engine: its logprobs are the learner's, and weights can be swapped in and out.

Beside `doctor.py`, which looks at files and text. The learner's side is transformers in float32 in this process.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from server.assembly import Built
from server.doctor.checks import PROBE_TEXT, Check, judge, reason_of
from server.engines.protocol import Engine, Weights
from server.models.weights import read_entries

PROBE_TOKENS = 160
"""Longer than one KV block of 128: stale blocks only show beyond it."""


async def engine_checks(build: Callable[[], Built], folder: Path, max_rank: int) -> AsyncIterator[Check]:
    """Start the engine, compare it with the learner's computation, swap weights in and out, and stop it.

    Args:
        build: makes the policy.
        folder: where weights may be written that are made for this.
        max_rank: the engine's largest adapter.
    """
    began = time.perf_counter()
    try:
        built = await asyncio.to_thread(build)
        engine, base = built.engine, Weights(0, "base", built.base)
        await engine.start(base, base)
    except Exception as error:  # Whatever it is, it is the finding.
        yield Check("engine", "fail", reason_of(error), "mend this first; the rest needs an engine")
        return
    try:
        yield Check(
            "engine", "pass", f"started in {time.perf_counter() - began:.1f} s, context {engine.context_tokens} tokens"
        )
        try:
            learner = await asyncio.to_thread(_Learner, built.base)
            own = await asyncio.to_thread(learner.logprobs)
        except Exception as error:  # Whatever it is, it is the finding.
            yield Check("logprobs", "fail", reason_of(error), "transformers has to load the model: the learner does")
            return
        bench = _Bench(engine, learner, own, folder)
        yield await _guarded_await("logprobs", bench.logprobs)
        if engine.adapters:
            yield await _guarded_await("adapter", lambda: bench.adapter(max_rank))
        else:
            yield Check("adapter", "skip", "the engine is set to full weights", "--weights adapter tries it")
        if built.weights == "full":
            yield await _guarded_await("full weights", lambda: bench.full_weights(built.validate))
        else:
            yield Check("full weights", "skip", "the engine is set to adapters", "--weights full tries it")
    finally:
        await engine.close()


class _Bench:
    """A started engine beside the learner's computation on the same weights."""

    def __init__(self, engine: Engine, learner: _Learner, own: list[float], folder: Path) -> None:
        self._engine, self._learner, self._own, self._folder = engine, learner, own, folder

    async def logprobs(self) -> Check:
        """Compare the base."""
        served = await self._engine.score(0, self._learner.ids)
        mean, largest = _gap(served, self._own)
        allowed = self._engine.check_tolerance
        return judge(
            "logprobs",
            mean <= allowed,
            f"engine and learner differ by {mean:.5f} nats on average, {largest:.5f} at most, over "
            f"{len(served)} tokens; {allowed} on average is numerics",
            "every importance weight would be off: try --engine.dtype float32, or another engine",
        )

    async def adapter(self, max_rank: int) -> Check:
        """Load a random adapter beside the base, and unload it."""
        engine, ids = self._engine, self._learner.ids
        path = self._folder / "adapter"
        expected = await asyncio.to_thread(
            self._learner.write_adapter, path, min(8, max_rank), 4 * engine.check_tolerance
        )
        before = await engine.score(0, ids)
        await engine.load(Weights(1, "adapter", path))
        served = await engine.score(1, ids)
        back, _ = _gap(await engine.score(0, ids), before)
        await engine.unload(1)
        return self._swapped("adapter", served, expected, before, back)

    async def full_weights(self, validate: Callable[[Path, str], None]) -> Check:
        """Replace all weights by perturbed ones, and put the base back."""
        engine, ids = self._engine, self._learner.ids
        path = self._folder / "full"
        expected = await asyncio.to_thread(self._learner.write_perturbed, path, 4 * engine.check_tolerance)
        await asyncio.to_thread(validate, path, "full")
        before = await engine.score(0, ids)
        await engine.load(Weights(2, "full", path))
        served = await engine.score(2, ids)
        await engine.load(Weights(3, "base", self._learner.directory))
        back, _ = _gap(await engine.score(3, ids), before)
        return self._swapped("full weights", served, expected, before, back)

    def _swapped(
        self, name: str, served: list[float], expected: list[float], before: list[float], back: float
    ) -> Check:
        changed, (mean, largest) = _gap(served, before)[0], _gap(served, expected)
        allowed = self._engine.check_tolerance
        return judge(
            name,
            changed > allowed and mean <= allowed and back <= allowed,
            f"loading moves the output by {changed:.4f} nats, to {mean:.5f} (at most {largest:.5f}) from what "
            f"the learner computes with them; the base is back within {back:.5f}",
            "what the engine serves is not what was loaded: this engine must not be trained with",
        )


class _Learner:
    """What the learner computes: transformers in float32. torch is imported only here."""

    def __init__(self, directory: Path) -> None:
        import torch
        from tokenizers import Tokenizer
        from transformers import AutoModelForCausalLM

        self.directory = directory
        found = Tokenizer.from_file(str(directory / "tokenizer.json")).encode(PROBE_TEXT, add_special_tokens=False).ids
        self.ids: list[int] = list(itertools.islice(itertools.cycle(found), PROBE_TOKENS))
        """[T] the fixed text."""
        largest = max(read_entries(directory).values(), key=lambda entry: entry.end - entry.begin)
        self._stored = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}[largest.dtype]
        model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        self._model = model.eval().requires_grad_(False)

    def logprobs(self, model: Any = None) -> list[float]:
        """Return [T-1] logprobs of each token after the first."""
        import torch

        ids = torch.tensor([self.ids])
        with torch.no_grad():
            logits = (model or self._model)(ids, use_cache=False).logits[0, :-1].float()
        found: list[float] = torch.log_softmax(logits, -1).gather(-1, ids[0, 1:, None])[:, 0].tolist()
        return found

    def write_adapter(self, path: Path, rank: int, at_least: float) -> list[float]:
        """Write a random adapter that moves the output by so many nats; return the logprobs with it."""
        import torch
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(0)
        model: Any = get_peft_model(self._model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"))
        matrices = {name: p for name, p in model.named_parameters() if "lora_" in name}

        def push(scale: float) -> None:
            for name, matrix in matrices.items():
                if "lora_B" in name:
                    matrix.copy_(torch.randn_like(matrix) * scale)
                matrix.copy_(matrix.to(self._stored).float())

        expected = self._push_until_moved(push, at_least, lambda: self.logprobs(model))
        model.save_pretrained(path)
        self._model = model.unload()
        return expected

    def write_perturbed(self, path: Path, at_least: float) -> list[float]:
        """Write all weights with noise that moves the output by so many nats; return the logprobs with them.

        The model is spent afterwards. A head of its own is written even where it is tied, as the learner does.
        """
        import torch
        from safetensors.torch import save_file

        torch.manual_seed(0)

        def push(scale: float) -> None:
            for p in self._model.parameters():
                p.add_(torch.randn_like(p) * (p.abs().mean() * scale))
                p.copy_(p.to(self._stored).float())

        expected = self._push_until_moved(push, at_least, self.logprobs)
        named = {"lm_head.weight": self._model.get_output_embeddings().weight, **self._model.state_dict()}
        path.mkdir()
        save_file(
            {name: tensor.detach().to(self._stored, copy=True).contiguous() for name, tensor in named.items()},
            path / "model.safetensors",
            metadata={"format": "pt"},
        )
        return expected

    def _push_until_moved(
        self, push: Callable[[float], None], at_least: float, now: Callable[[], list[float]]
    ) -> list[float]:
        """Push ever harder until the output has moved; how much a model minds differs by orders of magnitude."""
        import torch

        before, scale = self.logprobs(), 0.01
        while True:
            with torch.no_grad():
                push(scale)
            moved = now()
            if _gap(moved, before)[0] >= at_least or scale > 100:
                return moved
            scale *= 2


def _gap(one: list[float], other: list[float]) -> tuple[float, float]:
    """Return the mean and the largest absolute difference."""
    gaps = [abs(a - b) for a, b in zip(one, other, strict=True)]
    return sum(gaps) / len(gaps), max(gaps)


async def _guarded_await(name: str, check: Callable[[], Any]) -> Check:
    try:
        made: Check = await check()
        return made
    except Exception as error:  # Whatever it is, it is the finding.
        return Check(name, "fail", reason_of(error))
