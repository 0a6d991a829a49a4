"""Which GPU each process gets, and how much of its memory: decided from the settings at the start, and said in numbers.

One GPU is shared by a fixed split: vLLM takes its share at once, the learner may take its own and no more, so neither
finds the other's memory gone in the night. With two GPUs each has its own. A learner elsewhere needs none here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from server.engines.settings import EngineSettings
from server.section import SettingsError
from server.training.settings import LearnerSettings

_GIB = 2**30
MOST_SHARED = 0.95
"""Both shares of one GPU together; each process has a CUDA context outside of its share (ours)."""
LEAST_CACHE_GIB = 0.5
"""What an engine needs beside its weights before it can answer (ours)."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU of this machine."""

    index: int
    name: str
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Placement:
    """Where engine and learner run; None and nothing are not on a GPU, or wherever CUDA puts them."""

    engine_gpu: int | None = None
    learner_gpus: tuple[int, ...] = ()
    learner_share: float | None = None
    """Share of its GPU's memory that the learner may take; None has no bound."""
    message: str = "no GPU: engine and learner compute on the CPU"


def gpus() -> list[Gpu]:
    """Return this machine's GPUs as its driver lists them; none without a driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    asked = subprocess.run(
        [program, "--query-gpu=index,name,memory.total", "--format=csv,noheader,nounits"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    listed = [] if asked.returncode else read_gpus(asked.stdout)
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return [gpu for gpu in listed if str(gpu.index) in allowed] if all(map(str.isdecimal, allowed)) else listed


def visible(*gpus: int) -> dict[str, str]:
    """Return the variables that show a process these GPUs alone; no variables without any."""
    return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus)), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if gpus else {}


def read_gpus(listed: str) -> list[Gpu]:
    """Read what `nvidia-smi` lists: a line each of index, name and memory in MiB."""
    lines = [line.split(", ") for line in listed.splitlines() if line.count(", ") == 2]
    return [Gpu(int(index), name, int(mib) * 2**20) for index, name, mib in lines if mib.strip().isdecimal()]


def weights_bytes(model: Path) -> int:
    """Return the size of a model's weights on disk, which is what they take in the engine."""
    return sum(file.stat().st_size for file in model.glob("*.safetensors"))


def place(found: Sequence[Gpu], engine: EngineSettings, learner: LearnerSettings, model_bytes: int) -> Placement:
    """Return who gets what.

    Args:
        found: the machine's GPUs.
        engine: `gpu` and `gpu_memory` matter here.
        learner: `start`, `processes`, `gpu` and `gpu_memory` matter here.
        model_bytes: of the base model's weights.

    Raises:
        SettingsError: a GPU that is named is not there, both shares together are too much, or the model does not fit
            into the engine's.
    """
    if not found:
        return Placement()
    by_index = {gpu.index: gpu for gpu in found}
    own = _named(by_index, engine.gpu, "engine.gpu")
    taken = engine.gpu_memory * own.total_bytes
    if model_bytes + LEAST_CACHE_GIB * _GIB > taken:
        raise SettingsError(
            f"the model's weights are {_gib(model_bytes)}, and vLLM's share of GPU {own.index} "
            f"({_gib(own.total_bytes)}) is {_gib(taken)} (engine.gpu_memory "
            f"{engine.gpu_memory:g}): raise it"
        )
    text = (
        f"GPU {own.index} ({own.name}, {_gib(own.total_bytes)}): vLLM has {_gib(taken)} (engine.gpu_memory "
        f"{engine.gpu_memory:g}), of which {_gib(model_bytes)} are weights"
    )
    if not learner.start:
        return Placement(own.index, message=f"{text}; the learner runs elsewhere")
    others = [gpu for gpu in found if gpu.index != own.index]
    if learner.processes > 1:
        if len(others) < learner.processes:
            raise SettingsError(
                f"learner.processes is {learner.processes}, each with a GPU of its own, and beside GPU "
                f"{own.index}, which is vLLM's, this machine has {len(others)}"
            )
        theirs = tuple(gpu.index for gpu in others[: learner.processes])
        return Placement(own.index, theirs, None, f"{text}; GPUs {', '.join(map(str, theirs))} are the learner's")
    one = _named(by_index, (others or [own])[0].index if learner.gpu is None else learner.gpu, "learner.gpu")
    if one.index != own.index:
        return Placement(
            own.index,
            (one.index,),
            None,
            f"{text}; GPU {one.index} ({one.name}, {_gib(one.total_bytes)}) is the learner's",
        )
    together = engine.gpu_memory + learner.gpu_memory
    if together > MOST_SHARED:
        raise SettingsError(
            f"vLLM and the learner share GPU {own.index} ({_gib(own.total_bytes)}) and would take {_gib(taken)} "
            f"(engine.gpu_memory {engine.gpu_memory:g}) and {_gib(learner.gpu_memory * own.total_bytes)} "
            f"(learner.gpu_memory {learner.gpu_memory:g}), together more than {MOST_SHARED:.0%}: lower one, or give "
            "the learner another GPU (learner.gpu)"
        )
    share = learner.gpu_memory * own.total_bytes
    return Placement(
        own.index,
        (own.index,),
        learner.gpu_memory,
        f"{text}; the learner may take {_gib(share)} (learner.gpu_memory {learner.gpu_memory:g}), "
        f"{_gib(own.total_bytes - taken - share)} stay free",
    )


def _named(by_index: dict[int, Gpu], index: int, setting: str) -> Gpu:
    if index not in by_index:
        raise SettingsError(f"{setting} is {index}, and this machine has GPU {', '.join(map(str, sorted(by_index)))}")
    return by_index[index]


def _gib(size: float) -> str:
    return f"{size / _GIB:.1f} GiB"
