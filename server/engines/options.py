"""What can be set on each engine: plain values, which `server/assembly.py` takes from the server's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

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
    """Type of weights and computation; `auto`: chosen by `precision.py`."""
    context_tokens: int | None = Field(default=None, ge=128)
    """Longest prompt plus answer. Default: the model's own limit."""
    device: str | None = None
    """A torch device. Default: `cuda` if available, else `cpu`."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of torch in this whole process. Default: chosen by torch."""


class VllmOptions(_Options):
    """Options of the vLLM engine."""

    url: str | None = None
    """A running vLLM to use instead of starting one, such as `http://127.0.0.1:8001`. It must have been started with
    the arguments that `vllm/command.py` returns, and its control routes must be reachable from this machine
    only."""
    dtype: Dtype = "auto"
    """Type of weights and computation; `auto`: chosen by `precision.py`."""
    max_model_len: int | None = Field(default=None, ge=128)
    """Longest prompt plus answer. Default: the model's own limit."""
    max_num_seqs: int = Field(default=64, ge=1)
    """Answers sampled at once; further requests wait inside vLLM."""
    kv_cache_gib: float = Field(default=1.0, gt=0)
    """Memory for the key-value cache (CPU build)."""
    omp_threads_bind: str | None = None
    """Cores to compute on, such as `0-1` (CPU build). Default: every core this process may use; vLLM's own default
    leaves one core free."""
    gpu_memory_utilization: float = Field(default=0.45, gt=0, lt=1)
    """Share of the GPU's memory (CUDA build)."""
    gpu: int | None = None
    """The GPU to use, in `nvidia-smi`'s numbering (CUDA build). Default: chosen by CUDA."""
    lora: bool = False
    """Hold LoRA adapters next to the base weights and never replace those; False replaces full weights instead. On a
    CPU, adapters halve the decoding speed (measured)."""
    max_lora_rank: int = Field(default=16, ge=1, le=512)
    """Largest rank of an adapter."""
    max_loras: int = Field(default=2, ge=1)
    """Adapters in one forward pass; requests for further ones wait."""
    max_cpu_loras: int = Field(default=8, ge=1)
    """Adapters held at once. vLLM dies when it evicts an adapter that it cannot read again, so `load` refuses more."""
    port: int | None = Field(default=None, ge=1, le=65535)
    """Loopback port. Default: a Unix socket instead; on Windows, a free port."""
    log_path: Path | None = None
    """vLLM's own log. Default: `vllm.log` in the data directory."""
    start_timeout_s: float = Field(default=900.0, gt=0)
    """Longest wait until vLLM answers; large models take minutes to load."""
    env: tuple[str, ...] = ()
    """Further environment variables of this process that vLLM gets; patterns such as `MY_*`."""
    extra_args: tuple[str, ...] = ()
    """Additional vLLM command-line arguments, last on its command line."""
