"""Starts vLLM as a child process, waits until it answers, and stops it. Versions and requests are unknown here.

vLLM's control routes need no key, so it listens on loopback only. It runs under `server/child_process.py`, which
ensures that none of vLLM's processes outlives the server.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import os
import re
import socket
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import aiohttp

from server.child_process import supervised
from server.engines.gpus import visible
from server.engines.options import VllmOptions
from server.errors import EngineError

Progress = Callable[[str], None]

BASE_MODEL = "base"
"""The name under which vLLM serves the base weights."""
MAX_LOGPROBS = 1000
"""Most alternatives of one token that can be requested; they contain nearly every token of a plain text."""
STOP_S = 20.0
_MODULES = ("vllm.entrypoints.launchers.api_server.entry", "vllm.entrypoints.openai.api_server")
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
_CAUSE = re.compile(r"\b\w*(Error|Exception): .+")

logger = logging.getLogger(__name__)


class VllmProcess:
    """One vLLM, from start to stop."""

    def __init__(self, options: VllmOptions, model: Path, data_dir: Path, progress: Progress = logger.info) -> None:
        self._options, self._model, self._data_dir, self._progress = options, model, data_dir, progress
        self._process: asyncio.subprocess.Process | None = None
        self.log_path = (options.log_path or data_dir / "vllm.log").absolute()
        self.url = ""
        self._log_begin = 0

    async def start(self) -> str:
        """Start vLLM and return its URL once it answers.

        Raises:
            EngineError: vLLM is not installed, ended while starting (with the errors in its log), or took too long.
        """
        if importlib.util.find_spec("vllm") is None:
            raise EngineError(
                "vLLM is not installed in this Python: install the extra `cpu` or `gpu`, or choose the engine `local`"
            )
        port = self._options.port or _free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._log_begin = log.tell()
            self._process = await asyncio.create_subprocess_exec(
                *supervised(command(self._options, self._model, port)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                cwd=self.log_path.parent,
                env={**os.environ, **environment(self._options)},
                start_new_session=True,
            )
        try:
            await self._wait_until_healthy()
        except BaseException:
            await self.stop()
            raise
        return self.url

    async def wait(self) -> int:
        """Wait until vLLM and all its processes have ended, for any reason; return its exit status."""
        if self._process is None:
            raise EngineError("vLLM was not started")
        return await self._process.wait()

    async def stop(self) -> None:
        """Stop vLLM and every process it started."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_S)
        except TimeoutError:
            logger.warning("vLLM's supervisor does not stop; killing it")
            process.kill()
            await process.wait()

    def why_ended(self) -> str:
        """Return the errors in vLLM's log, then its last lines."""
        with self.log_path.open("rb") as log:
            log.seek(max(self._log_begin, self.log_path.stat().st_size - 2**18))
            lines = log.read().decode(errors="replace").splitlines()
        causes = [match[0].strip() for line in lines if " WARNING " not in line and (match := _CAUSE.search(line))]
        last = [line.strip() for line in lines if line.strip()][-5:]
        return "\n".join([*dict.fromkeys(causes), *last])[-2000:] or "its log is empty"

    async def _wait_until_healthy(self) -> None:
        assert self._process is not None
        started = reported = time.monotonic()
        self._progress(f"starting vLLM on {self.url} with {self._model}; its log is {self.log_path}")
        while not await answers(self.url):
            if self._process.returncode is not None:
                raise EngineError(
                    f"vLLM ended while starting (status {self._process.returncode}). Its log "
                    f"{self.log_path} says:\n{self.why_ended()}"
                )
            waited = time.monotonic() - started
            if waited > self._options.start_timeout_s:
                raise EngineError(f"vLLM did not answer within {waited:.0f} s; see {self.log_path}")
            if time.monotonic() - reported >= 10:
                reported = time.monotonic()
                self._progress(f"vLLM is loading ({waited:.0f} s)")
            await asyncio.sleep(0.25)
        self._progress(f"vLLM answers after {time.monotonic() - started:.1f} s")


async def answers(url: str, timeout_s: float = 5.0) -> bool:
    """Return whether vLLM reports that it is healthy."""
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout_s)) as session,
            session.get(f"{url}/health", headers={"Connection": "close"}) as response,
        ):
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False


@cache
def is_cpu_build() -> bool:
    """Return whether the installed vLLM is a CPU build, by its files: importing it takes seconds and loads torch."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return False
    package = Path(next(iter(spec.submodule_search_locations)))
    return not (any(package.glob("_moe_C*.so")) or any(package.glob("vllm_flash_attn/*.so")))


def resolved_dtype(options: VllmOptions, model: Path) -> str:
    """Return the dtype vLLM will compute in."""
    if options.dtype != "auto":
        return options.dtype
    config = json.loads((model / "config.json").read_text())
    dtype = config.get("dtype") or config.get("torch_dtype")
    return dtype if dtype in ("bfloat16", "float16", "float32") else "bfloat16"


def command(options: VllmOptions, model: Path, port: int) -> list[str]:
    """Return vLLM's command line."""
    module = next((name for name in _MODULES if _exists(name)), _MODULES[0])
    line = [
        sys.executable, "-P", "-m", module, "--model", str(model.absolute()), "--served-model-name", BASE_MODEL,
        "--host", "127.0.0.1", "--port", str(port), "--dtype", resolved_dtype(options, model),
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


def environment(options: VllmOptions) -> dict[str, str]:
    """Return the variables that vLLM gets in addition to this process's environment."""
    variables = {
        "VLLM_SERVER_DEV_MODE": "1",  # the control routes
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",  # the model is a directory
        **(visible(options.gpu) if options.gpu is not None else {}),
    }
    if options.lora:
        variables["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    if is_cpu_build():
        cores = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else range(os.cpu_count() or 1)
        variables["VLLM_CPU_OMP_THREADS_BIND"] = options.omp_threads_bind or ",".join(map(str, cores))
    return variables


def _exists(module: str) -> bool:
    """Return whether vLLM has a module, without importing its packages."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return False
    path = Path(next(iter(spec.submodule_search_locations)), *module.split(".")[1:])
    return path.with_suffix(".py").is_file()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
