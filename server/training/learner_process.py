"""The learner on this machine, one process or several: started when a run is due, restarted when it dies."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO, cast

from env_adapters.child_variables import COMPUTE, child_variables
from server import background
from server.child_process import GRACE_S, supervised
from server.errors import Conflict, Unavailable
from server.store.database import BROKEN
from server.training.run_states import UNFINISHED
from server.training.runs import Runs
from server.training.settings import LearnerSettings

log = logging.getLogger("upturn.learner")
INTERRUPTED = "a run has started and needs the memory: rehearse again when it has ended"
ENDING_S = 0.1  # Pause between two looks at a learner that is about to end.
STOP_S = 10.0  # How long a learner may take to return its batch when it is stopped.
INTERVAL_S = 2.0  # Pause between checks for due runs: another server may queue a run or lose its learner.


def program(settings: LearnerSettings) -> list[str]:
    """Return the part of the learner's command line that the settings determine."""
    parallel = ["learner", "launch", "--processes", str(settings.processes)]
    threads = [] if settings.threads is None else ["--threads", str(settings.threads)]
    nice = ["nice", "-n", str(settings.nice)] if settings.nice else []
    return [*nice, sys.executable, "-m", *(parallel if settings.processes > 1 else ["learner", "run"]), *threads]


class LearnerProcess:
    """Starts the learner when a run is due, and restarts it when it dies."""

    def __init__(
        self,
        settings: LearnerSettings,
        runs: Runs,
        *,
        data_dir: Path,
        key: str,
        gpu_variables: Mapping[str, str],
        gpu_memory: float | None,
    ) -> None:
        """Prepare the process's environment; nothing starts before `start`.

        Args:
            settings: the learner's settings.
            runs: says which run is due.
            data_dir: absolute; holds the learner's work and its logs.
            key: API key with which the learner calls the server.
            gpu_variables: environment variables that restrict the learner to its GPUs.
            gpu_memory: fraction of a shared GPU's memory that the learner may use; None is unlimited.
        """
        self._settings = settings
        self._runs = runs
        self._data_dir = data_dir
        self._gpu_memory = gpu_memory
        # PASSIVE: OpenMP threads sleep while they wait. On cores shared with other work, a learner step of 1.7 s took
        # 5.6 s with spinning threads and 3.2 s with sleeping ones (measured). The key is not on the command line, which
        # all users of the machine can read.
        self._environment = {
            "OMP_WAIT_POLICY": "PASSIVE",
            **child_variables(*COMPUTE, *settings.env),
            **gpu_variables,
            "UPTURN_KEY": key,
        }
        self._server_url = ""
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._due = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._rehearsal: asyncio.subprocess.Process | None = None
        self.busy = False
        """Whether a learner works on a run, or is about to: no rehearsal may take its memory."""
        self.deaths = 0
        """How often a learner has died since the server started."""
        self._gave_up = False
        """Whether the newest run failed because its learner died too often."""

    @property
    def state(self) -> str:
        """`training`, `waiting` for a run, or `crashed`."""
        if self._task is not None and self._task.done():
            return "crashed"
        if self._process is not None and self._process.returncode is None:
            return "training"
        return "crashed" if self._gave_up else "waiting"

    def start(self, server_url: str) -> None:
        """Start the learner whenever a run is due; `server_url` is the server's address for the learner."""
        self._server_url = server_url
        self._task = asyncio.create_task(self._supervise())
        self._due.set()

    def wake(self) -> None:
        """Check for due runs now: a run was queued."""
        self._due.set()

    async def close(self) -> None:
        """Stop the learner; its run continues at its learner step when the server starts again."""
        await background.end(self._task)
        await _stop(self._rehearsal)
        await _stop(self._process)
        await self._runs.release(self._name)

    @asynccontextmanager
    async def rehearsing(self, file: Path) -> AsyncIterator[asyncio.subprocess.Process]:
        """Let a learner rehearse the run that a file describes; it ends with the `with` block, or when a run starts.

        Its stdout is a line of JSON for each stage (`learner/rehearsal.py`).

        Raises:
            Conflict: a run is in progress.
        """
        while self.busy:  # A learner whose run has ended needs the memory for another moment.
            if await self._runs.due(self._name) is not None:
                raise Conflict(INTERRUPTED)
            await asyncio.sleep(ENDING_S)
        command = [*self._command("rehearsal", f"{self._name}:rehearsal"), "--rehearse", str(file)]
        with self._log(self.rehearsal_log, "wb") as output:
            self._rehearsal = await self._spawn(command, output, asyncio.subprocess.PIPE, grace_s=0.0)
        try:
            yield self._rehearsal
        finally:
            await asyncio.shield(_stop(self._rehearsal))

    @property
    def work_dir(self) -> Path:
        """Directory of the learner's versions and checkpoints."""
        return self._data_dir / "learner"

    @property
    def rehearsal_log(self) -> Path:
        """The log of the last rehearsal's learner."""
        return self._log_path("rehearsal")

    async def _supervise(self) -> None:
        while True:
            try:
                while due := await self._runs.due(self._name):
                    await self._finish(due)
            except (*BROKEN, Unavailable) as error:
                log.warning("cannot read which run is due, retrying: %s", error)
            try:
                await asyncio.wait_for(self._due.wait(), INTERVAL_S)
            except TimeoutError:
                continue
            self._due.clear()

    async def _finish(self, run_id: str) -> None:
        """Run the learner until one run ends, restarting it at most `learner.restarts` times."""
        deaths, unclaimed, self._gave_up = 0, 0, False
        while deaths <= self._settings.restarts:
            code = await self._run_learner(run_id)
            state = (await self._runs.view(run_id)).state
            if code == 0 or state == "paused" or state not in UNFINISHED:  # 0: another learner holds the run.
                return
            unclaimed = unclaimed + 1 if state == "queued" else 0
            if unclaimed == 1:  # Paused and resumed in the meantime, or dead before its claim: the next one tells.
                continue
            deaths += 1
            self.deaths += 1
            log.warning("the learner of %s exited with code %s (death %d)", run_id, code, deaths)
        self._gave_up = True
        await self._runs.fail(run_id, f"the learner died {deaths} times; see {self._log_path(run_id)}")

    async def _run_learner(self, run_id: str) -> int:
        """Start the learner on a run, wait for it, and return its exit status."""
        self.busy = True
        try:
            await _stop(self._rehearsal)
            path = self._log_path(run_id)
            with self._log(path, "ab") as output:
                self._process = await self._spawn(self._command(run_id, self._name), output, output)
            log.info("the learner of %s is process %d, log %s", run_id, self._process.pid, path)
            return await self._process.wait()
        finally:
            self.busy = False

    def _command(self, run_id: str, name: str) -> list[str]:
        """Return the command line of a learner with a name, for one run."""
        command = [
            *program(self._settings),
            "--server",
            self._server_url,
            "--run",
            run_id,
            "--once",
            "--learner",
            name,
            "--work-dir",
            str(self.work_dir),
        ]
        if self._gpu_memory is not None:
            command += ["--gpu-memory", str(self._gpu_memory)]
        return command + self._settings.arguments

    def _log(self, path: Path, mode: str) -> BinaryIO:
        path.parent.mkdir(parents=True, exist_ok=True)
        return cast(BinaryIO, path.open(mode))

    async def _spawn(
        self, command: list[str], log: BinaryIO, stdout: BinaryIO | int, grace_s: float = GRACE_S
    ) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *supervised(command, grace_s),
            stdout=stdout,
            stderr=log,
            stdin=asyncio.subprocess.DEVNULL,
            env=self._environment,
            cwd=Path(__file__).parents[2],
        )

    def _log_path(self, run_id: str) -> Path:
        return self._data_dir / "logs" / f"learner-{run_id}.log"


async def _stop(process: asyncio.subprocess.Process | None) -> None:
    """End a learner, if it runs: it returns its batch."""
    if process is None or process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), STOP_S)
    except TimeoutError:
        process.kill()
        await process.wait()
