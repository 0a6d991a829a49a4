"""Checks a started engine: its logprobs agree with the learner's, and weights can be swapped in and out.

The learner's side of the comparison is transformers in this process with float32 weights, computing in the engine's
precision, as the learner does. Weights that are made for a swap go to a folder that the caller deletes.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Protocol

from server.doctor.checks import PROBE_TEXT, Check, judge, reason_of
from server.engines.precision import Precision
from server.engines.protocol import Engine, Weights
from server.models.weights import read_entries

PROBE_TOKENS = 160
"""Longer than one KV block of 128 tokens: stale blocks only show beyond the first."""


class Candidate(Protocol):
    """A policy to check, such as `server.assembly.Built`."""

    @property
    def engine(self) -> Engine:
        """Its engine, not started."""

    @property
    def base(self) -> Path:
        """Directory of the base model."""

    @property
    def weights(self) -> str:
        """Kind of weights that are swapped: `full` or `adapter`."""

    @property
    def validate(self) -> Callable[[Path, str], None]:
        """Validates a directory of weights of a kind; raises BadRequest."""


async def engine_checks(build: Callable[[], Candidate], folder: Path, max_rank: int) -> AsyncIterator[Check]:
    """Start the engine, compare it with the learner's computation, swap weights in and out, and stop the engine.

    Args:
        build: makes the policy.
        folder: where to write the weights that are swapped in.
        max_rank: rank of the engine's largest adapter.
    """
    began = time.perf_counter()
    try:
        built = await asyncio.to_thread(build)
        engine, base = built.engine, Weights(0, "base", built.base)
        await engine.start(base, base)
    except Exception as error:  # Any error is a finding.
        yield Check("engine", "fail", reason_of(error), "fix this first; the other checks need an engine")
        return
    try:
        yield Check(
            "engine",
            "pass",
            f"started in {time.perf_counter() - began:.1f} s, context {engine.context_tokens} tokens, computes in "
            f"{engine.precision}",
        )
        if engine.precision == "float16":
            yield Check("logprobs", "fail", "the learner cannot compute in float16", "--engine.dtype bfloat16")
            return
        try:
            learner = await asyncio.to_thread(_Learner, built.base, engine.precision)
            own = await asyncio.to_thread(learner.logprobs)
        except Exception as error:  # Any error is a finding.
            yield Check(
                "logprobs", "fail", reason_of(error), "transformers must be able to load the model, as the learner does"
            )
            return
        bench = _Bench(engine, learner, own, folder)
        yield await _guarded_await("logprobs", bench.logprobs)
        if engine.adapters:
            yield await _guarded_await("adapter", lambda: bench.adapter(max_rank))
        else:
            yield Check("adapter", "skip", "the engine is set to full weights", "--weights adapter checks it")
        if built.weights == "full":
            yield await _guarded_await("full weights", lambda: bench.full_weights(built.validate))
        else:
            yield Check("full weights", "skip", "the engine is set to adapters", "--weights full checks it")
    finally:
        await engine.close()


class _Bench:
    """A started engine and the learner's computation on the same weights."""

    def __init__(self, engine: Engine, learner: _Learner, learner_logprobs: list[float], folder: Path) -> None:
        self._engine, self._learner, self._own, self._folder = engine, learner, learner_logprobs, folder

    async def logprobs(self) -> Check:
        """Compare the logprobs of the base."""
        served = await self._engine.score(0, self._learner.ids)
        mean, largest = _gap(served, self._own)
        allowed = self._engine.check_tolerance
        return judge(
            "logprobs",
            mean <= allowed,
            f"engine and learner differ by {mean:.5f} nats on average, {largest:.5f} at most, over "
            f"{len(served)} tokens; up to {allowed} on average is explained by numerics",
            "every importance weight would be wrong: "
            + ("try another engine" if self._engine.precision == "float32" else "try --engine.dtype float32"),
        )

    async def adapter(self, max_rank: int) -> Check:
        """Load a random adapter next to the base, and unload it."""
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
        """Replace all weights by perturbed ones, and restore the base."""
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
            f"loading moves the output by {changed:.4f} nats; it then differs from the learner's by {mean:.5f} on "
            f"average, {largest:.5f} at most; restoring the base leaves a difference of {back:.5f}",
            "the engine does not serve what was loaded: do not train with this engine",
        )


class _Learner:
    """The learner's computation: float32 weights in the engine's precision. Only this class imports torch."""

    def __init__(self, directory: Path, precision: Precision) -> None:
        import torch
        from tokenizers import Tokenizer
        from transformers import AutoModelForCausalLM

        self.directory = directory
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        ids = tokenizer.encode(PROBE_TEXT, add_special_tokens=False).ids
        self.ids: list[int] = list(itertools.islice(itertools.cycle(ids), PROBE_TOKENS))
        """[T] the probe text."""
        largest = max(read_entries(directory).values(), key=lambda entry: entry.end - entry.begin)
        self._half = precision == "bfloat16"
        self._stored = torch.bfloat16 if self._half and largest.dtype == "BF16" else torch.float32
        model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        self._model = model.eval().requires_grad_(False)

    def logprobs(self, model: Any = None) -> list[float]:
        """Return [T-1] logprobs of each token after the first."""
        import torch

        ids = torch.tensor([self.ids])
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=self._half):
            logits = (model or self._model)(ids, use_cache=False).logits[0, :-1].float()
        logprobs: list[float] = torch.log_softmax(logits, -1).gather(-1, ids[0, 1:, None])[:, 0].tolist()
        return logprobs

    def write_adapter(self, path: Path, rank: int, at_least: float) -> list[float]:
        """Write a random adapter that moves the output by `at_least` nats; return [T-1] logprobs with it."""
        import torch
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(0)
        model: Any = get_peft_model(self._model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"))
        matrices = {name: p for name, p in model.named_parameters() if "lora_" in name}

        def perturb(scale: float) -> None:
            for name, matrix in matrices.items():
                if "lora_B" in name:
                    matrix.copy_(torch.randn_like(matrix) * scale)
                matrix.copy_(matrix.to(self._stored).float())

        expected = self._perturb_until_moved(perturb, at_least, lambda: self.logprobs(model))
        model.save_pretrained(path)
        self._model = model.unload()
        return expected

    def write_perturbed(self, path: Path, at_least: float) -> list[float]:
        """Write all weights with noise that moves the output by `at_least` nats; return [T-1] logprobs with them.

        The model keeps the noise. The LM head is written even if it is tied, as the learner does.
        """
        import torch
        from safetensors.torch import save_file

        torch.manual_seed(0)

        def perturb(scale: float) -> None:
            for p in self._model.parameters():
                p.add_(torch.randn_like(p) * (p.abs().mean() * scale))
                p.copy_(p.to(self._stored).float())

        expected = self._perturb_until_moved(perturb, at_least, self.logprobs)
        named = {"lm_head.weight": self._model.get_output_embeddings().weight, **self._model.state_dict()}
        path.mkdir()
        save_file(
            {name: tensor.detach().to(self._stored, copy=True).contiguous() for name, tensor in named.items()},
            path / "model.safetensors",
            metadata={"format": "pt"},
        )
        return expected

    def _perturb_until_moved(
        self, perturb: Callable[[float], None], at_least: float, now: Callable[[], list[float]]
    ) -> list[float]:
        """Add growing noise until the output has moved; models differ in sensitivity by orders of magnitude."""
        import torch

        before, scale = self.logprobs(), 0.01
        while True:
            with torch.no_grad():
                perturb(scale)
            moved = now()
            if _gap(moved, before)[0] >= at_least or scale > 100:
                return moved
            scale *= 2


def _gap(one: list[float], other: list[float]) -> tuple[float, float]:
    """Return the mean and the maximum of the absolute differences."""
    gaps = [abs(a - b) for a, b in zip(one, other, strict=True)]
    return sum(gaps) / len(gaps), max(gaps)


async def _guarded_await(name: str, check: Callable[[], Any]) -> Check:
    try:
        made: Check = await check()
        return made
    except Exception as error:  # Any error is a finding.
        return Check(name, "fail", reason_of(error))
