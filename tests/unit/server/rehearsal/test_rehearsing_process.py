"""The learner's process of a rehearsal: it says how it ended, leaves nothing running, and yields to a run."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from server.errors import Conflict
from server.training.learner_process import LearnerProcess
from server.training.settings import LearnerSettings


def learner(tmp_path: Path, *arguments: str) -> LearnerProcess:
    settings = LearnerSettings(arguments=list(arguments))
    return LearnerProcess(settings, cast(Any, None), data_dir=tmp_path, key="sk", gpu_variables={}, gpu_memory=None)


async def test_a_learner_that_cannot_start_says_so_by_its_status_and_its_log(tmp_path: Path) -> None:
    made = learner(tmp_path, "--no-such-option")
    async with made.rehearsing(tmp_path / "run.json") as process:
        assert process.stdout is not None and await process.stdout.read() == b""
        assert await process.wait() == 2
    assert "--no-such-option" in made.rehearsal_log.read_text()


async def test_it_ends_with_the_rehearsal(tmp_path: Path) -> None:
    made = learner(tmp_path)
    async with made.rehearsing(tmp_path / "run.json") as process:
        assert process.returncode is None
    assert process.returncode is not None
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


async def due(_name: str) -> str:
    return "run_1"


async def test_it_gives_way_to_a_run_and_none_begins_during_one(tmp_path: Path, monkeypatch: Any) -> None:
    made, ended = learner(tmp_path), asyncio.Event()

    async with made.rehearsing(tmp_path / "run.json") as process:
        rehearsed_before = made._spawn

        async def spawn(command: list[str], *more: Any, **named: Any) -> asyncio.subprocess.Process:
            assert process.returncode is not None, "both at once"
            ended.set()
            return await rehearsed_before(["sleep", "60"], *more, **named)

        monkeypatch.setattr(made, "_spawn", spawn)
        monkeypatch.setattr(made, "_runs", SimpleNamespace(due=due))
        run = asyncio.create_task(made._run_learner("run_1"))
        await process.wait()
        assert made.busy
        await ended.wait()
    with pytest.raises(Conflict, match="a run has started"):
        async with made.rehearsing(tmp_path / "run.json"):
            pass
    while made._process is None:
        await asyncio.sleep(0.01)
    made._process.terminate()
    await run
    assert not made.busy
