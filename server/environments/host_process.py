"""Starts an environment host as a child process that cannot outlive the server; see `server/child_process.py`."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from env_adapters.child_variables import HOST, child_variables
from env_adapters.protocol import EnvironmentFailure
from server.child_process import supervised

START_S = 60.0  # Python starts within a second; a busy machine takes longer.
STOP_S = 15.0


class HostProcess:
    """One local host process."""

    def __init__(self, modules: list[str], log_path: Path, env: list[str]) -> None:
        """Prepare it.

        Args:
            modules: modules of the settings with environments.
            log_path: file for its log.
            env: names of further environment variables of this process that it gets.
        """
        self._modules = modules
        self._env = env
        self._log_path = log_path
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> int:
        """Start it and return the port it listens on.

        Raises:
            EnvironmentFailure: the process exited, or reported no port in time.
        """
        command = [sys.executable, "-m", "env_adapters", "serve", "--port", "0"]
        command += [flag for module in self._modules for flag in ("--module", module)]
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        with self._log_path.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *supervised(command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                cwd=self._log_path.parent,  # Some packages write files to the working directory.
                env={**child_variables(*HOST, *self._env), "PYTHONPATH": _search_path()},
            )
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(START_S):
                first_line = (await self._process.stdout.readline()).decode()
            return int(first_line.rpartition(":")[2])
        except (TimeoutError, ValueError) as error:
            await self.stop()
            raise EnvironmentFailure(f"a host process did not start; see {self._log_path}") from error

    async def stop(self) -> None:
        """Stop it and every process it started."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


def _search_path() -> str:
    """Return this process's import path, so that a host can import the same modules."""
    return os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
