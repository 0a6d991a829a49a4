"""Settings of the engine."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from server.section import Section


class EngineSettings(Section):
    """The engine that samples answers."""

    kind: Literal["auto", "vllm", "local", "scripted"] = "auto"
    """`vllm` (a child process, or `url`), `local` (transformers in this process), `scripted` (fixed answers); `auto`
    is vllm if it is installed, else local."""
    url: str | None = None
    """A running vLLM to use instead of starting one. Its control routes must be reachable from this machine only."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Type of weights and computation; `auto` is the type in the model's files."""
    context_tokens: int = Field(default=2048, ge=128)
    """Longest prompt plus answer."""
    max_concurrent: int = Field(default=64, ge=1)
    """Answers sampled at once; further requests wait in the engine."""
    kv_cache_gib: float = Field(default=1.0, gt=0)
    """Memory for the key-value cache on a CPU."""
    gpu_memory: float = Field(default=0.45, gt=0, lt=1)
    """vLLM's share of the GPU's memory."""
    gpu: int = Field(default=0, ge=0)
    """vLLM's GPU."""
    cpu_cores: str | None = None
    """Cores vLLM computes on, such as `0-1`. Default: all cores this process may use."""
    max_lora_rank: int = Field(default=16, ge=1, le=512)
    """Largest rank of an adapter."""
    max_adapters: int = Field(default=4, ge=2)
    """Adapters that can answer at once."""
    extra_args: list[str] = []
    """Additional vLLM command-line arguments."""
