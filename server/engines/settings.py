"""Settings of the engine."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from server.section import Section, VariableName


class EngineSettings(Section):
    """The engine, which samples the answers."""

    kind: Literal["auto", "vllm", "local", "scripted"] = "auto"
    """`vllm`: a child process, or a running server at `url`; `local`: transformers in the server's process; `scripted`:
    fixed answers, for tests; `auto`: vllm if installed, otherwise local."""
    url: str | None = None
    """URL of a running vLLM to use instead of starting one. Its control routes must be reachable only from here."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Data type in which engine and learner compute; `auto`: as stored in the model's files, but float32 where the
    hardware has no bfloat16 instructions, and on a CPU for float16 files."""
    context_tokens: int | None = Field(default=None, ge=128)
    """Maximum length of prompt plus answer, in tokens; default: the model's own where memory allows. On a CPU that is
    what `kv_cache_gib` holds, and at most 32,768."""
    max_concurrent: int = Field(default=64, ge=1)
    """Maximum number of answers sampled concurrently; further requests wait in the engine."""
    kv_cache_gib: float = Field(default=1.0, gt=0)
    """Size of the key-value cache on a CPU, in GiB."""
    gpu_memory: float = Field(default=0.45, gt=0, lt=1)
    """Fraction of the GPU's memory that vLLM uses."""
    gpu: int = Field(default=0, ge=0)
    """Index of vLLM's GPU."""
    cpu_cores: str | None = None
    """CPU cores that vLLM computes on, such as `0-1`; default: all."""
    max_lora_rank: int = Field(default=16, ge=1, le=512)
    """Maximum rank of an adapter."""
    max_adapters: int = Field(default=4, ge=2)
    """Maximum number of adapters loaded concurrently."""
    env: list[VariableName] = []
    """Environment variables of the server that vLLM gets in addition to a fixed list without secrets."""
    extra_args: list[str] = []
    """Additional vLLM command-line arguments."""
