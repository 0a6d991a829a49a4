"""What the learner's stages mean, and how a rehearsal says that there was no further stage."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from server.errors import Conflict
from server.readiness import Part
from server.training.rehearsal.learning import Learning
from server.training.rehearsal.report import Report
from server.versions.check import Check
from upturn.wire import RehearsalCheck, RunConfig, RunFollows, RunView

GIB = 2**30
PROBE = {"token_ids": list(range(130)), "logprobs": [-1.0] * 129}
STAGES: dict[str, dict[str, Any]] = {
    "state": {"parameters": 5_000_000, "repeated_steps": 0},
    "horizon": {"horizon": 10},
    "step": {"checkpoints_bytes": 3 * GIB, "version_bytes": GIB, "disk_free_bytes": 20 * GIB},
    "version": {"path": "/v", "manifest_sha256": "0", "probe": PROBE},
    "row": {"tokens": 4096, "peak_bytes": 6 * GIB, "free_bytes": 8 * GIB},
}


class Learner:
    """A learner whose process prints prepared lines."""

    busy = False

    def __init__(self, work_dir: Path, lines: list[dict[str, Any]], status: int = 0) -> None:
        self.work_dir, self.rehearsal_log = work_dir, work_dir / "log"
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        self._program = f"import sys; print('a library says hello'); print({text!r}, end=''); sys.exit({status})"
        self.described: dict[str, Any] = {}

    @asynccontextmanager
    async def rehearsing(self, file: Path) -> AsyncIterator[asyncio.subprocess.Process]:
        self.described = json.loads(file.read_text())
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", self._program, stdout=asyncio.subprocess.PIPE
        )
        yield process
        await process.wait()


def run(**more: Any) -> RunView:
    return RunView(
        id="rehearsal", state="running", trigger="t", config=RunConfig(steps=1, kind="adapter"), step=0, reason=None,
        learner=None, first_version=0, last_version=None, created_at=0.0, started_at=None, ended_at=None, steps=[],
    ).model_copy(update=more)  # fmt: skip


def lines(**changes: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"stage": stage, **figures, **changes.get(stage, {})} for stage, figures in STAGES.items()]


async def checks(learner: Learner, of: RunView | None = None, refuses: str | None = None) -> dict[str, RehearsalCheck]:
    async def disk() -> Part:
        return Part(True, "ok", figures={"free_bytes": 20.0 * GIB, "min_free_bytes": float(GIB)})

    async def try_adapter(*_: object) -> Check:
        if refuses is not None:
            raise Conflict(refuses)
        return Check(0.001, 0.01)

    engine, publisher = SimpleNamespace(context_tokens=64), SimpleNamespace(try_adapter=try_adapter)
    learning = Learning(cast(Any, learner), cast(Any, None), cast(Any, engine), cast(Any, publisher), disk, newest=3)
    report = Report()
    await learning.rehearse(report, "nightly", of or run())
    assert not (learner.work_dir / "rehearsal").exists() and report.pending == []
    return {check.name: check for check in report.checks}


async def test_all_stages_are_ok_with_their_figures(tmp_path: Path) -> None:
    learner = Learner(tmp_path, lines())
    found = await checks(learner)
    assert {check.result for check in found.values()} == {"ok"}
    assert found["disk"].text == "checkpoints and versions take up to 8.0 GiB, and 20.0 GiB are free"
    assert found["memory"].text == "a step with a row of 4096 tokens takes 6.0 GiB of 8.0 GiB that were free"
    assert "agreed with the learner to 0.0010 nats" in found["engine"].text
    assert learner.described["context_tokens"] == 64 and learner.described["run"]["id"] == "rehearsal"


async def test_a_disk_that_the_night_would_fill_fails(tmp_path: Path) -> None:
    found = await checks(Learner(tmp_path, lines(step={"disk_free_bytes": 8.5 * GIB})))
    assert found["disk"].result == "failed" and "1.0 GiB must stay free" in found["disk"].text


async def test_memory_that_is_nearly_used_up_and_steps_to_repeat_are_warnings(tmp_path: Path) -> None:
    follows = run(follows=RunFollows(run_id="r1", step=9))
    found = await checks(Learner(tmp_path, lines(row={"peak_bytes": 7.9 * GIB}, state={"repeated_steps": 4})), follows)
    assert found["memory"].result == found["state"].result == "warning"
    assert "lacks 4 steps of run r1" in found["state"].text


async def test_an_adapter_that_the_engine_refuses_fails(tmp_path: Path) -> None:
    found = await checks(Learner(tmp_path, lines()), refuses="the engine holds 2 adapters, its maximum")
    assert found["engine"].result == "failed" and "its maximum" in found["engine"].text
    assert found["memory"].result == "ok", "the stages after it are reported"


@pytest.mark.parametrize(
    ("at", "name"), [("memory", "memory"), ("row", "memory"), ("state", "state"), ("step", "learner"), ("x", "learner")]
)
async def test_an_error_is_a_finding_of_what_failed(tmp_path: Path, at: str, name: str) -> None:
    found = await checks(Learner(tmp_path, [*lines()[:1], {"stage": "error", "at": at, "message": "no"}], status=1))
    assert (found[name].result, found[name].text) == ("failed", "no")
    assert "memory" not in found or name == "memory"


@pytest.mark.parametrize(
    ("status", "why"), [(137, "was killed, as the system does when memory is short"), (2, "ended with status 2")]
)
async def test_a_learner_that_ends_early_says_how(tmp_path: Path, status: int, why: str) -> None:
    found = await checks(Learner(tmp_path, [], status))
    assert list(found) == ["state"] and found["state"].result == "failed" and why in found["state"].text


async def test_a_run_that_starts_meanwhile_is_the_reason(tmp_path: Path) -> None:
    learner = Learner(tmp_path, lines()[:3])
    learner.busy = True
    assert "a run has started" in (await checks(learner))["engine"].text
