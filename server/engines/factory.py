"""Which engines there are, what can be set on each, and how to make one.

Importing this module imports no engine: each brings its own heavy packages only when it is chosen. The options are
plain values, so that the server's settings can be turned into them.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from server.engines.protocol import Engine

EngineKind = Literal["vllm", "local", "scripted"]
Dtype = Literal["auto", "bfloat16", "float16", "float32"]


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ScriptedOptions(_Options):
    """Options of the scripted engine."""

    context_tokens: int = Field(default=8192, ge=128)
    """Longest prompt plus answer."""


class LocalOptions(_Options):
    """Options of the engine in this process."""

    dtype: Dtype = "auto"
    """Weights and computation; `auto` is what the model's files hold."""
    context_tokens: int | None = Field(default=None, ge=128)
    """Longest prompt plus answer; None is the model's own limit."""
    device: str | None = None
    """A torch device; None is `cuda` where there is one, else `cpu`."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of torch, in this whole process; None leaves torch's own choice."""


class VllmOptions(_Options):
    """Options of the vLLM engine."""

    url: str | None = None
    """A running vLLM to use, such as `http://127.0.0.1:8001`, instead of starting one. It must have been started with
    the arguments that `vllm_process.command` gives, and its control routes must be reachable from here only."""
    dtype: Dtype = "auto"
    """Weights and computation; `auto` is what the model's files hold."""
    max_model_len: int | None = Field(default=None, ge=128)
    """Longest prompt plus answer; None is the model's own limit."""
    max_num_seqs: int = Field(default=64, ge=1)
    """Answers sampled at once; more wait inside vLLM."""
    kv_cache_gib: float = Field(default=1.0, gt=0)
    """Memory for the key-value cache (CPU build)."""
    omp_threads_bind: str | None = None
    """Cores to compute on, such as `0-1` (CPU build); None is every core this process may use. vLLM's own default
    leaves one core free."""
    gpu_memory_utilization: float = Field(default=0.45, gt=0, lt=1)
    """Share of the GPU's memory (CUDA build)."""
    gpu: int | None = None
    """The GPU to use, as `nvidia-smi` counts (CUDA build); None is CUDA's own choice."""
    lora: bool = False
    """Hold LoRA adapters beside the base weights, and never replace those. False replaces full weights. On a CPU
    adapters halve the decoding speed (measured)."""
    max_lora_rank: int = Field(default=16, ge=1, le=512)
    """Largest rank of an adapter."""
    max_loras: int = Field(default=2, ge=1)
    """Adapters in one forward pass; requests for more wait."""
    max_cpu_loras: int = Field(default=8, ge=1)
    """Adapters held at once. An adapter that vLLM evicts and cannot read again kills it, so `load` refuses more."""
    port: int | None = Field(default=None, ge=1, le=65535)
    """Loopback port; None is a free one."""
    log_path: Path | None = None
    """vLLM's own log; None is `vllm.log` in the data directory."""
    start_timeout_s: float = Field(default=900.0, gt=0)
    """Longest wait until vLLM answers; large models load for minutes."""
    extra_args: tuple[str, ...] = ()
    """More arguments for vLLM, last on its command line."""


def vllm_installed() -> bool:
    """Whether a vLLM of either build can be started by this Python (without importing it)."""
    return importlib.util.find_spec("vllm") is not None


def make_engine(
    kind: EngineKind,
    data_dir: Path,
    *,
    vllm: VllmOptions | None = None,
    local: LocalOptions | None = None,
    scripted: ScriptedOptions | None = None,
) -> Engine:
    """Make an engine, not started yet.

    Args:
        kind: which one.
        data_dir: where it may write its log and working files.
        vllm: options if it is vLLM; those of the other kinds are ignored.
        local: options if it is local.
        scripted: options if it is scripted.
    """
    if kind == "vllm":
        from server.engines.vllm import VllmEngine

        return VllmEngine(vllm or VllmOptions(), data_dir)
    if kind == "local":
        from server.engines.local import LocalEngine

        return LocalEngine(local or LocalOptions())
    from server.engines.scripted import ScriptedEngine

    return ScriptedEngine(scripted or ScriptedOptions())
