"""The compute precision: the data type in which engine and learner compute. Decided here alone.

It follows from the setting `engine.dtype`, the stored weights, and the processor. The engine reports the outcome
(`Engine.precision`), and each run tells it to its learner (`RunView.precision`). The processor is described by plain
text or numbers, so that every case can be tested on any machine; torch is not needed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from server.errors import EngineError
from server.models.weights import read_entries

Precision = Literal["bfloat16", "float16", "float32"]

CPUINFO = Path("/proc/cpuinfo")
TOLERANCES: dict[Precision, float] = {"float32": 2e-3}
"""Mean difference of the engine's and the learner's logprobs, in nats, that numerics explain."""
HALF_TOLERANCE = 0.12
"""bf16 differs from float32 by 0.035 nats on average (measured)."""
_INSTRUCTIONS = {"avx512_bf16", "amx_bf16", "bf16"}
"""Flags of x86 (`flags`) and ARM (`Features`) processors that multiply bfloat16 numbers."""
_FULL_CAPABILITY = (8, 0)
"""Lowest compute capability of a GPU with bfloat16 arithmetic; vLLM refuses bfloat16 below it."""
_STORED: dict[str, Precision] = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


@dataclass(frozen=True, slots=True)
class Choice:
    """A compute precision, and why it differs from the precision of the stored weights."""

    precision: Precision
    reason: str = ""
    """Empty if nothing needs an explanation."""

    @property
    def message(self) -> str:
        """The choice in one line, for the log; empty if nothing needs an explanation."""
        if not self.reason:
            return ""
        return f"engine and learner compute in {self.precision}, since {self.reason} (engine.dtype overrides this)"


def tolerance(precision: Precision) -> float:
    """Return the mean difference in nats up to which an engine of this precision agrees with the learner."""
    return TOLERANCES.get(precision, HALF_TOLERANCE)


def stored_precision(model: Path) -> Precision:
    """Return the data type that a model's config declares; otherwise its largest tensor's."""
    config = json.loads((model / "config.json").read_text())
    text = config.get("text_config") or {}
    declared = next((part[key] for part in (config, text) for key in ("dtype", "torch_dtype") if part.get(key)), None)
    if declared in ("bfloat16", "float16", "float32"):
        return declared  # type: ignore[no-any-return]
    if declared is not None or not any(model.glob("*.safetensors")):
        return "float32"
    largest = max(read_entries(model).values(), key=lambda entry: entry.end - entry.begin)
    return _STORED.get(largest.dtype, "float32")


def read_cpuinfo() -> str:
    """Return the kernel's description of the CPU; empty where there is none (macOS, Windows)."""
    return CPUINFO.read_text(errors="replace") if CPUINFO.is_file() else ""


def multiplies_bfloat16(cpuinfo: str) -> bool:
    """Return whether every core has instructions for bfloat16 products.

    Args:
        cpuinfo: the text of `/proc/cpuinfo`. Without flags the answer is no: torch's builds for macOS and Windows have
            no fast bfloat16 product on a CPU.
    """
    cores = [
        set(value.split())
        for name, _, value in (line.partition(":") for line in cpuinfo.splitlines())
        if name.strip() in ("flags", "Features")
    ]
    return bool(cores) and all(_INSTRUCTIONS & flags for flags in cores)


def on_cpu(setting: str, stored: Precision, cpuinfo: str) -> Choice:
    """Return the precision on a CPU.

    Args:
        setting: `engine.dtype`.
        stored: data type of the weights.
        cpuinfo: the text of `/proc/cpuinfo`.
    """
    if setting != "auto":
        return Choice(_checked(setting))
    if stored == "float16":
        return Choice("float32", "the weights are float16, which CPUs compute slowly and which cannot be trained")
    if stored == "bfloat16" and not multiplies_bfloat16(cpuinfo):
        return Choice("float32", "this CPU has no bfloat16 instructions")
    return Choice(stored)


def on_gpu(setting: str, stored: Precision, capability: tuple[int, int] | None) -> Choice:
    """Return the precision on a GPU.

    Args:
        setting: `engine.dtype`.
        stored: data type of the weights.
        capability: the GPU's compute capability; None if its driver does not report one.

    Raises:
        EngineError: the setting is bfloat16, and the GPU has no bfloat16 arithmetic.
    """
    wanted = stored if setting == "auto" else _checked(setting)
    if wanted != "bfloat16" or capability is None or capability >= _FULL_CAPABILITY:
        return Choice(wanted)
    lacks = f"this GPU (compute capability {capability[0]}.{capability[1]}) has no bfloat16 arithmetic"
    if setting == "auto":
        return Choice("float32", lacks)
    raise EngineError(f"engine.dtype is bfloat16, but {lacks}: set it to float32")


def _checked(setting: str) -> Precision:
    if setting not in ("bfloat16", "float16", "float32"):
        raise EngineError(f"{setting!r} is no data type to compute in: use bfloat16 or float32")
    return setting  # type: ignore[return-value]
