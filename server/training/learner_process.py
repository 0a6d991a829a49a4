"""The learner of this machine, one process or several: started while a run is due, and again when it dies."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from server import background
from server.child_process import supervised
from server.errors import Unavailable
from server.store.database import BROKEN
from server.training.runs import UNFINISHED, Runs
from server.training.settings import LearnerSettings

log = logging.getLogger("upturn.learner")
STOP_S = 10.0  # How long a learner may take to give its batch back.
LOOK_S = 2.0  # Pause before looking again for a run: one that another server queued, or whose learner was lost.


def program(settings: LearnerSettings) -> list[str]:
    """Return the command line of the learner, as far as settings decide it."""
    several = ["learner.parallel.launch", "--processes", str(settings.processes)]
    threads = [] if settings.threads is None else ["--threads", str(settings.threads)]
    nice = ["nice", "-n", str(settings.nice)] if settings.nice else []
    return [*nice, sys.executable, "-m", *(several if settings.processes > 1 else ["learner", "run"]), *threads]


class LearnerProcess:
    """Starts the learner while a run is due, and again when it dies."""

    def __init__(
        self,
        settings: LearnerSettings,
        runs: Runs,
        *,
        data_dir: Path,
        key: str,
        environment: Mapping[str, str],
        gpu_memory: float | None,
    ) -> None:
        self._settings = settings
        self._runs = runs
        self._data_dir = data_dir
        self._gpu_memory = gpu_memory
        # Threads that wait for each other sleep: beside others that compute on the same cores, spinning ones took 5.6 s
        # for a step of 1.7 s, sleeping ones 3.2 s (measured). The key is never on the command line, for all to read.
        self._environment = {
            "OMP_WAIT_POLICY": "PASSIVE",
            **os.environ,
            **environment,
            "UPTURN_KEY": key,
        }
        self._server_url = ""
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._due = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None

    def start(self, server_url: str) -> None:
        """Begin to watch for due runs."""
        self._server_url = server_url
        self._task = asyncio.create_task(self._watch())
        self._due.set()

    def wake(self) -> None:
        """A run was queued."""
        self._due.set()

    async def close(self) -> None:
        """Stop the learner; its run goes on where it was when the server starts again."""
        await background.end(self._task)
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self._process.wait(), STOP_S)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        await self._runs.release(self._name)

    async def _watch(self) -> None:
        while True:
            try:
                while due := await self._runs.due(self._name):
                    await self._do(due)
            except (*BROKEN, Unavailable) as error:
                log.warning("the database does not say which run is due: %s", error)
            try:
                await asyncio.wait_for(self._due.wait(), LOOK_S)
            except TimeoutError:
                continue
            self._due.clear()

    async def _do(self, run_id: str) -> None:
        """Bring one run to its end, restarting the learner at most as often as settings allow."""
        deaths = 0
        while deaths <= self._settings.restarts:
            code = await self._learn(run_id)
            state = (await self._runs.view(run_id)).state
            if code == 0 or state == "paused" or state not in UNFINISHED:  # With 0 it found another learner there.
                return
            if state == "queued":  # Paused and resumed meanwhile.
                continue
            deaths += 1
            log.warning("the learner of %s ended with code %s (death %d)", run_id, code, deaths)
        await self._runs.fail(run_id, f"the learner died {deaths} times; see {self._log_path(run_id)}")

    async def _learn(self, run_id: str) -> int:
        command = [
            *program(self._settings),
            "--server",
            self._server_url,
            "--run",
            run_id,
            "--once",
            "--learner",
            self._name,
            "--work-dir",
            str(self._data_dir / "learner"),
        ]
        if self._gpu_memory is not None:
            command += ["--gpu-memory", str(self._gpu_memory)]
        command += self._settings.arguments
        path = self._log_path(run_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *supervised(command),
                stdout=output,
                stderr=output,
                stdin=asyncio.subprocess.DEVNULL,
                env=self._environment,
                cwd=Path(__file__).parents[2],
            )
        log.info("the learner of %s has process %d, log %s", run_id, self._process.pid, path)
        return await self._process.wait()

    def _log_path(self, run_id: str) -> Path:
        return self._data_dir / "logs" / f"learner-{run_id}.log"
