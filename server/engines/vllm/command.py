"""vLLM's command line and environment, and the facts about the installed build and the model that they depend on."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import entry_points
from itertools import pairwise
from pathlib import Path

from env_adapters.child_variables import COMPUTE, child_variables
from server.engines.gpus import compute_capability, visible
from server.engines.options import VllmOptions
from server.engines.precision import Choice, on_cpu, on_gpu, read_cpuinfo, stored_precision
from server.engines.vllm.address import Address
from server.engines.vllm.frames import TOKEN_PLUGIN, TOKEN_SOCKET

BASE_MODEL = "base"
"""The name under which vLLM serves the base weights."""
MAX_LOGPROBS = 1000
"""Most alternatives of one token that can be requested; they contain nearly every token of a plain text."""
_MODULES = ("vllm.entrypoints.launchers.api_server.entry", "vllm.entrypoints.openai.api_server")
_PLUGIN_GROUPS = ("general_plugins", "io_processor_plugins", "platform_plugins", "stat_logger_plugins")
"""Kinds of plugins that vLLM loads without being told to."""
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Adapter ranks that vLLM supports."""


@cache
def is_cpu_build() -> bool:
    """Return whether the installed vLLM is a CPU build, by its files: importing it takes seconds and loads torch."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return False
    package = Path(next(iter(spec.submodule_search_locations)))
    return not (any(package.glob("_moe_C*.so")) or any(package.glob("vllm_flash_attn/*.so")))


def chosen_precision(options: VllmOptions, model: Path) -> Choice:
    """Return the precision in which a vLLM started with these options computes.

    Raises:
        EngineError: the GPU cannot compute in the configured precision.
    """
    setting = _dtype_argument(options.extra_args) or options.dtype
    stored = stored_precision(model)
    if is_cpu_build():
        return on_cpu(setting, stored, read_cpuinfo())
    return on_gpu(setting, stored, compute_capability(options.gpu))


def _dtype_argument(arguments: Sequence[str]) -> str | None:
    """Return the value of the last `--dtype` among vLLM's additional arguments, which wins over all others."""
    joined = " ".join(arguments).replace("--dtype=", "--dtype ").split()
    values = [value for name, value in pairwise(joined) if name == "--dtype"]
    return {"float": "float32", "half": "float16"}.get(values[-1], values[-1]) if values else None


def command(options: VllmOptions, model: Path, address: Address) -> list[str]:
    """Return vLLM's command line."""
    module = next((name for name in _MODULES if _exists(name)), _MODULES[0])
    line = [
        sys.executable, "-P", "-m", module, "--model", str(model.absolute()), "--served-model-name", BASE_MODEL,
        *address.arguments, "--dtype", chosen_precision(options, model).precision,
        "--max-num-seqs", str(options.max_num_seqs), "--generation-config", "vllm",
        "--enable-scale-out",  # the token endpoint
        "--logprobs-mode", "processed_logprobs",  # of the distribution sampled from
        "--max-logprobs", str(MAX_LOGPROBS),  # for the spot checks
        "--disable-uvicorn-access-log",
    ]  # fmt: skip
    if options.max_model_len is not None:
        line += ["--max-model-len", str(options.max_model_len)]
    if is_cpu_build():
        line += ["--enforce-eager"]  # compiling takes 90 s and gains nothing here (measured)
        line += ["--kv-cache-memory-bytes", str(int(options.kv_cache_gib * 2**30))]
        # Only whole blocks are shared: with vLLM's default of 128, a short prompt is computed again in every turn,
        # which made plays 1.4 times slower (measured). The CPU kernels need a multiple of 32.
        line += ["--block-size", "32"]
        # A seeded request whose prompt is read in two parts crashes the CPU build ("CPU Generator does not use
        # offset"), so any client could crash it. Prompts are therefore read whole.
        line += ["--no-enable-chunked-prefill", "--max-num-batched-tokens", str(max(2048, options.max_model_len or 0))]
    else:
        line += ["--gpu-memory-utilization", str(options.gpu_memory_utilization)]
        if options.max_model_len is None:
            line += ["--max-model-len", "auto"]  # the model's own, or as much as fits into this memory
    if options.lora:
        rank = next((rank for rank in _RANKS if rank >= options.max_lora_rank), _RANKS[-1])
        line += [
            "--enable-lora",
            "--max-lora-rank",
            str(rank),
            "--max-loras",
            str(options.max_loras),
            "--max-cpu-loras",
            str(max(options.max_cpu_loras, options.max_loras)),
        ]
    return [*line, *options.extra_args]


@cache
def vocabulary_size(model: Path) -> int:
    """Return the number of tokens in a model's output layer."""
    config = json.loads((model / "config.json").read_text())
    return int(config.get("vocab_size") or config["text_config"]["vocab_size"])


def environment(options: VllmOptions, tokens: Path | None = None) -> dict[str, str]:
    """Return vLLM's environment variables; with `tokens`, it listens on a token channel there."""
    variables = {
        **child_variables(*COMPUTE, "VLLM_*", "FLASHINFER_*", "RAY_*", "UCX_*", *options.env),
        "VLLM_SERVER_DEV_MODE": "1",  # the control routes
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",  # the model is a directory
        **(visible(options.gpu) if options.gpu is not None else {}),
    }
    if tokens is not None:
        # vLLM loads endpoint plugins only by name, and with a list of names no other plugin that is not in it.
        loaded = variables.get("VLLM_PLUGINS", ",".join(_plugins()))
        variables |= {"VLLM_PLUGINS": f"{loaded},{TOKEN_PLUGIN}".lstrip(","), TOKEN_SOCKET: str(tokens)}
    if options.lora:
        variables["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    if is_cpu_build():
        cores = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else range(os.cpu_count() or 1)
        if not shutil.which(os.environ.get("CXX", "g++")):
            variables["TORCHDYNAMO_DISABLE"] = "1"  # Without it the sampler compiles a function, even in eager mode.
        variables["VLLM_CPU_OMP_THREADS_BIND"] = options.omp_threads_bind or ",".join(map(str, cores))
    return variables


def _plugins() -> list[str]:
    """Return the names of the plugins that vLLM loads unless `VLLM_PLUGINS` says which."""
    names = (point.name for group in _PLUGIN_GROUPS for point in entry_points(group=f"vllm.{group}"))
    return list(dict.fromkeys(names))


def _exists(module: str) -> bool:
    """Return whether vLLM has a module, without importing its packages."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return False
    path = Path(next(iter(spec.submodule_search_locations)), *module.split(".")[1:])
    return path.with_suffix(".py").is_file()
