"""Jobs that run again and again."""

from __future__ import annotations

import asyncio
import logging

import pytest

from server.background import Repeated


async def test_a_job_runs_at_the_start_and_again_and_never_twice_at_once() -> None:
    begun, go, running = asyncio.Semaphore(0), asyncio.Event(), 0

    async def job() -> None:
        nonlocal running
        running += 1
        assert running == 1
        begun.release()
        await go.wait()
        running -= 1

    repeated = Repeated(job, 0.01)
    repeated.start()
    await begun.acquire()
    await asyncio.sleep(0.05)
    assert begun.locked(), "it began while it was running"
    go.set()
    await begun.acquire()
    repeated.close()


async def test_a_job_that_is_stopped_is_not_reported_as_failed(caplog: pytest.LogCaptureFixture) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def job() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    repeated = Repeated(job, 60)
    repeated.start()
    await begun.wait()
    repeated.close()
    await ended.wait()
    await asyncio.sleep(0)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    repeated.close()
