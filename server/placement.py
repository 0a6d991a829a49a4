"""Divides the GPUs between engine and learner at startup, and reports the split in numbers.

One GPU is shared by a fixed split: vLLM allocates its share at once, and the learner may take its own share and no
more, so neither runs out of memory because of the other. With two GPUs each process has its own. A learner on another
machine needs none here. Only `assembly.py` uses this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from server.engines.gpus import Gpu, visible
from server.engines.settings import EngineSettings
from server.section import SettingsError
from server.training.settings import LearnerSettings

_GIB = 2**30
MAX_SHARED = 0.95
"""Largest sum of both shares of one GPU; each process also has a CUDA context (this project's choice)."""
MIN_CACHE_GIB = 0.5
"""Memory that an engine needs in addition to its weights before it can answer (this project's choice)."""


@dataclass(frozen=True, slots=True)
class Placement:
    """GPU assignment of engine and learner. The defaults leave both on the CPU, or on CUDA's own choice."""

    engine_gpu: int | None = None
    learner_gpus: tuple[int, ...] = ()
    learner_share: float | None = None
    """Share of its GPU's memory that the learner may take; None: no limit."""
    message: str = "no GPU: engine and learner compute on the CPU"

    @property
    def learner_variables(self) -> dict[str, str]:
        """Environment variables that restrict the learner to its GPUs."""
        return visible(*self.learner_gpus)


def place(gpus: Sequence[Gpu], engine: EngineSettings, learner: LearnerSettings, model_bytes: int) -> Placement:
    """Return the GPU assignment of engine and learner.

    Args:
        gpus: the machine's GPUs.
        engine: decides by `gpu` and `gpu_memory`.
        learner: decides by `start`, `processes`, `gpu` and `gpu_memory`.
        model_bytes: size of the base model's weights.

    Raises:
        SettingsError: a configured GPU does not exist, the two shares add up to too much, or the model does not fit
            into the engine's share.
    """
    if not gpus:
        return Placement()
    by_index = {gpu.index: gpu for gpu in gpus}
    own = _gpu(by_index, engine.gpu, "engine.gpu")
    engine_bytes = engine.gpu_memory * own.total_bytes
    if model_bytes + MIN_CACHE_GIB * _GIB > engine_bytes:
        raise SettingsError(
            f"the model's weights take {_gib(model_bytes)}, but vLLM's share of GPU {own.index} "
            f"({_gib(own.total_bytes)}) is {_gib(engine_bytes)} (engine.gpu_memory {engine.gpu_memory:g}): raise it"
        )
    text = (
        f"GPU {own.index} ({own.name}, {_gib(own.total_bytes)}): vLLM has {_gib(engine_bytes)} (engine.gpu_memory "
        f"{engine.gpu_memory:g}), of which {_gib(model_bytes)} are weights"
    )
    if not learner.start:
        return Placement(own.index, message=f"{text}; the learner runs elsewhere")
    others = [gpu for gpu in gpus if gpu.index != own.index]
    if learner.processes > 1:
        if len(others) < learner.processes:
            raise SettingsError(
                f"learner.processes is {learner.processes}, and each process needs a GPU of its own, but this machine "
                f"has {len(others)} in addition to vLLM's GPU {own.index}"
            )
        indexes = tuple(gpu.index for gpu in others[: learner.processes])
        return Placement(own.index, indexes, None, f"{text}; GPUs {', '.join(map(str, indexes))} belong to the learner")
    chosen = _gpu(by_index, (others or [own])[0].index if learner.gpu is None else learner.gpu, "learner.gpu")
    if chosen.index != own.index:
        name = f"GPU {chosen.index} ({chosen.name}, {_gib(chosen.total_bytes)})"
        return Placement(own.index, (chosen.index,), None, f"{text}; {name} belongs to the learner")
    learner_bytes = learner.gpu_memory * own.total_bytes
    if engine.gpu_memory + learner.gpu_memory > MAX_SHARED:
        raise SettingsError(
            f"vLLM and the learner share GPU {own.index} ({_gib(own.total_bytes)}) and would take {_gib(engine_bytes)} "
            f"(engine.gpu_memory {engine.gpu_memory:g}) and {_gib(learner_bytes)} (learner.gpu_memory "
            f"{learner.gpu_memory:g}), together more than {MAX_SHARED:.0%}: lower one, or give the learner another GPU "
            "(learner.gpu)"
        )
    return Placement(
        own.index,
        (own.index,),
        learner.gpu_memory,
        f"{text}; the learner may take {_gib(learner_bytes)} (learner.gpu_memory {learner.gpu_memory:g}), "
        f"{_gib(own.total_bytes - engine_bytes - learner_bytes)} stay free",
    )


def _gpu(by_index: dict[int, Gpu], index: int, setting: str) -> Gpu:
    if index not in by_index:
        raise SettingsError(f"{setting} is {index}, but this machine has GPU {', '.join(map(str, sorted(by_index)))}")
    return by_index[index]


def _gib(size: float) -> str:
    return f"{size / _GIB:.1f} GiB"
