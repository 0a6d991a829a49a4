"""When runs start: by request or on an interval (APScheduler); and the learner process that does them here."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from pathlib import Path

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from clients.wire import RunConfig, RunView
from server.settings import LearnerSettings, ScheduleSettings
from server.training.runs import UNFINISHED, Runs
from server.watch import watched

log = logging.getLogger("upturn.schedule")
STOP_S = 10.0  # How long a learner may take to give its batch back.
RETRY_S = 2.0  # Pause before asking again for a run that another learner holds.


class LearnerProcess:
    """Starts `python -m learner run` while a run is due, and again when it dies."""

    def __init__(self, settings: LearnerSettings, runs: Runs, *, data_dir: Path, key: str) -> None:
        self._settings = settings
        self._runs = runs
        self._data_dir = data_dir
        self._environment = {**os.environ, "UPTURN_KEY": key}  # Never on the command line, which everybody can read.
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
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
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
            await self._due.wait()
            self._due.clear()
            while due := await self._runs.unfinished():
                await self._do(due[0])

    async def _do(self, run_id: str) -> None:
        """Bring one run to its end, restarting the learner at most as often as settings allow."""
        deaths = 0
        while deaths <= self._settings.restarts:
            code = await self._learn(run_id)
            if (await self._runs.view(run_id)).state not in UNFINISHED:
                return
            if code == 0:  # It found the run held by another learner, perhaps one that died with its server.
                await asyncio.sleep(RETRY_S)
                continue
            deaths += 1
            log.warning("the learner of %s ended with code %s (death %d)", run_id, code, deaths)
        await self._runs.fail(run_id, f"the learner died {deaths} times; see {self._log_path(run_id)}")

    async def _learn(self, run_id: str) -> int:
        command = [sys.executable, "-m", "learner", "run", "--server", self._server_url, "--run", run_id, "--once",
                   "--learner", self._name, "--work-dir", str(self._data_dir / "learner")]
        if self._settings.threads is not None:
            command += ["--threads", str(self._settings.threads)]
        path = self._log_path(run_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *watched(command), stdout=output, stderr=output, stdin=asyncio.subprocess.DEVNULL,
                env=self._environment, cwd=Path(__file__).parents[2])
        log.info("the learner of %s has process %d, log %s", run_id, self._process.pid, path)
        return await self._process.wait()

    def _log_path(self, run_id: str) -> Path:
        return self._data_dir / "logs" / f"learner-{run_id}.log"


class Schedule:
    """Starts runs on an interval. Missed times coalesce; a time that comes while a run is unfinished is skipped."""

    def __init__(self, settings: ScheduleSettings, runs: Runs, learner: LearnerProcess | None) -> None:
        self._settings = settings
        self._runs = runs
        self._learner = learner
        self._scheduler = AsyncIOScheduler(timezone="UTC")

    def start(self) -> None:
        """Start the clock, where settings name an interval."""
        if self._settings.interval_s is not None:
            self._scheduler.add_job(self._tick, "interval", seconds=self._settings.interval_s, coalesce=True,
                                    max_instances=1, misfire_grace_time=None)
            self._scheduler.start()

    def close(self) -> None:
        """Stop the clock."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    async def request(self, config: RunConfig, trigger: str) -> RunView:
        """Queue a run and wake the learner."""
        run = await self._runs.create(config, trigger)
        if self._learner is not None:
            self._learner.wake()
        return run

    def next_s(self) -> float | None:
        """Unix time of the next start; None where no interval is set."""
        jobs = self._scheduler.get_jobs() if self._scheduler.running else []
        return jobs[0].next_run_time.timestamp() if jobs else None

    async def _tick(self) -> None:
        if await self._runs.unfinished():
            log.info("a run is unfinished: this interval starts none")
        elif self._settings.run is not None:
            await self.request(self._settings.run, "interval")
