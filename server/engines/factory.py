"""Makes an engine of any kind. Each kind is imported only when it is chosen, with the heavy packages it needs."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Literal

from server.engines.options import LocalOptions, ScriptedOptions, VllmOptions
from server.engines.protocol import Engine

EngineKind = Literal["vllm", "local", "scripted"]


def vllm_installed() -> bool:
    """Whether this Python can start a vLLM of either build (without importing it)."""
    return importlib.util.find_spec("vllm") is not None


def make_engine(
    kind: EngineKind,
    data_dir: Path,
    *,
    vllm: VllmOptions | None = None,
    local: LocalOptions | None = None,
    scripted: ScriptedOptions | None = None,
) -> Engine:
    """Make an engine without starting it.

    Args:
        kind: the engine.
        data_dir: where it may write its log and working files.
        vllm: options of kind `vllm`; options of the other kinds are ignored.
        local: options of kind `local`.
        scripted: options of kind `scripted`.
    """
    if kind == "vllm":
        from server.engines.vllm.engine import VllmEngine

        return VllmEngine(vllm or VllmOptions(), data_dir)
    if kind == "local":
        # OpenMP reads it when torch is loaded. Two threads of a small model that wait for each other by spinning took
        # 39 ms for a token, on two cores with other work, and 1.4 ms by sleeping (measured).
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        from server.engines.local import LocalEngine

        return LocalEngine(local or LocalOptions())
    from server.engines.scripted import ScriptedEngine

    return ScriptedEngine(scripted or ScriptedOptions())
