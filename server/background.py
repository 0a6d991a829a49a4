"""Background work of the server: jobs that run again and again, and tasks that end with it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from apscheduler.schedulers.asyncio import AsyncIOScheduler


class Repeated:
    """A job that runs at the start and then at intervals, never twice at once.

    Args:
        job: what to do; what it returns is ignored.
        every_s: seconds from one beginning to the next.
    """

    def __init__(self, job: Callable[[], Awaitable[object]], every_s: float) -> None:
        self._job = job
        self._every_s = every_s
        self._scheduler = AsyncIOScheduler(timezone="UTC")

    def start(self) -> None:
        """Run it now, and then again and again."""
        self._scheduler.add_job(
            self._run,
            "interval",
            seconds=self._every_s,
            next_run_time=datetime.now(UTC),
            coalesce=True,
            max_instances=1,
            misfire_grace_time=None,
        )
        self._scheduler.start()

    def close(self) -> None:
        """Stop; a job in progress is canceled."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    async def _run(self) -> None:
        with suppress(asyncio.CancelledError):  # The server stops: APScheduler would log a failure.
            await self._job()


async def end(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel tasks and wait until each has ended; None stands for a task that was never started."""
    started = [task for task in tasks if task is not None]
    for task in started:
        task.cancel()
    if started:
        await asyncio.wait(started)
