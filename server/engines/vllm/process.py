"""Starts vLLM as a child process, waits until it answers, and stops it. Versions and requests are unknown here.

It listens where only the server reaches it (`address.py`), and runs under `server/child_process.py`, which ensures
that none of vLLM's processes outlives the server.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import re
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import aiohttp

from server.child_process import supervised
from server.engines.options import VllmOptions
from server.engines.vllm.address import Address, own_address
from server.engines.vllm.command import command, environment
from server.errors import EngineError
from upturn.packages import INSTALL

Progress = Callable[[str], None]

STOP_S = 20.0
_CAUSE = re.compile(r"\b\w*(Error|Exception): .+")
_DETAIL_FOLLOWS = re.compile(r"validation errors? for \w+$")
"""How pydantic's summary ends; the line after it says what is wrong."""

logger = logging.getLogger(__name__)


class VllmProcess:
    """One vLLM, which can be started again after it has ended."""

    def __init__(self, options: VllmOptions, model: Path, data_dir: Path, progress: Progress = logger.info) -> None:
        self._options, self._model, self._data_dir, self._progress = options, model, data_dir, progress
        self._process: asyncio.subprocess.Process | None = None
        self.log_path = (options.log_path or data_dir / "vllm.log").absolute()
        self.address = own_address(options.port)
        self._log_begin = 0

    async def start(self) -> None:
        """Start vLLM; return once it answers.

        Raises:
            EngineError: vLLM is not installed, ended while starting (with the error in its log), or took too long.
        """
        if importlib.util.find_spec("vllm") is None:
            raise EngineError(f"vLLM is not installed in this Python: {INSTALL}, or choose --engine.kind=local")
        for path in filter(None, (self.address.path, self.address.tokens)):
            path.unlink(missing_ok=True)  # The socket of the vLLM before this one.
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._log_begin = log.tell()
            self._process = await asyncio.create_subprocess_exec(
                *supervised(command(self._options, self._model, self.address)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                cwd=self.log_path.parent,
                env=environment(self._options, self.address.tokens),
                start_new_session=True,
            )
        try:
            await self._wait_until_healthy()
        except BaseException:
            await self.stop()
            raise

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
        causes, last = self._ending()
        return "\n".join([*causes, *last])[-2000:] or "its log is empty"

    def cause(self) -> str:
        """Return the error in vLLM's log that says most: the first, since later ones follow from it."""
        causes, last = self._ending()
        causes = [cause for cause in causes if "Engine core initialization failed" not in cause]
        return next(iter([*causes, *last[-1:]]), "its log is empty")[:500]

    def _ending(self) -> tuple[list[str], list[str]]:
        """Return the different errors since this process started, and the last lines."""
        with self.log_path.open("rb") as log:
            size = self.log_path.stat().st_size
            begin = self._log_begin if self._log_begin <= size else 0  # The log was cut meanwhile.
            log.seek(max(begin, size - 2**18))
            lines = log.read().decode(errors="replace").splitlines()
        causes = [
            match[0].strip() + (f": {after.strip()}" if _DETAIL_FOLLOWS.search(match[0].strip()) else "")
            for line, after in pairwise([*lines, ""])
            if " WARNING " not in line and (match := _CAUSE.search(line))
        ]
        return list(dict.fromkeys(causes)), [line.strip() for line in lines if line.strip()][-5:]

    async def _wait_until_healthy(self) -> None:
        assert self._process is not None
        started = reported = time.monotonic()
        self._progress(f"starting vLLM on {self.address} with {self._model}; its log is {self.log_path}")
        while not await answers(self.address):
            if self._process.returncode is not None:
                raise EngineError(
                    f"vLLM ended while starting (status {self._process.returncode}): {self.cause()}; its log is "
                    f"{self.log_path}"
                )
            waited = time.monotonic() - started
            if waited > self._options.start_timeout_s:
                raise EngineError(f"vLLM did not answer within {waited:.0f} s; see {self.log_path}")
            if time.monotonic() - reported >= 10:
                reported = time.monotonic()
                self._progress(f"vLLM is loading ({waited:.0f} s)")
            await asyncio.sleep(0.25)
        self._progress(f"vLLM answers after {time.monotonic() - started:.1f} s")


async def answers(address: Address, timeout_s: float = 5.0) -> bool:
    """Return whether vLLM reports that it is healthy."""
    try:
        async with (
            aiohttp.ClientSession(
                connector=address.connector(), timeout=aiohttp.ClientTimeout(total=timeout_s)
            ) as session,
            session.get(f"{address.url}/health", headers={"Connection": "close"}) as response,
        ):
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False
