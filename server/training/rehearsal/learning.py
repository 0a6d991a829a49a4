"""Rehearses the learner: a real learner process loads the run, trains a dry step, and writes what it would publish.

It reports its stages as they are done (`learner/rehearsal.py`). With adapters, the engine loads what it wrote next to
what it serves, checks it, and unloads it.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from server.engines.protocol import Engine
from server.readiness import Check
from server.training.learner_process import INTERRUPTED, LearnerProcess
from server.training.rehearsal.report import Finding, Report, failed, ok, warning
from server.training.runs import Runs
from server.versions.publish import Publisher
from upturn.wire import Probe, RunConfig, RunView

GIB = 2**30
HEARD_S = 60.0
"""A learner elsewhere that waits for a run asks for one every few seconds."""
CLOSE = 0.9
"""Share of the free memory above which a step is close to the limit."""
STAGE_LIMIT_S = 3600.0
"""The rehearsal's own limit ends a stage earlier."""
AT = {"state": "state", "horizon": "horizon", "memory": "memory", "row": "memory", "version": "engine"}
"""Names of checks by the stage at which the learner failed; any other is `learner`."""


class Learning:
    """Lets the learner on this machine rehearse runs.

    Args:
        learner: the learner of this server; None if it runs elsewhere.
        runs: knows when a learner elsewhere was last heard.
        engine: gets the adapter that the learner writes.
        publisher: loads and checks it.
        disk: the check of this server's disks.
        newest: number of newest versions whose weights are kept.
    """

    def __init__(
        self, learner: LearnerProcess | None, runs: Runs, engine: Engine, publisher: Publisher, disk: Check, newest: int
    ) -> None:
        self._learner = learner
        self._runs = runs
        self._engine = engine
        self._publisher = publisher
        self._disk = disk
        self._newest = newest

    async def available(self) -> list[Finding]:
        """Return whether a learner will claim tonight's run."""
        if self._learner is not None:
            if self._learner.state == "crashed":
                return [warning("the last learner died too often: see its log in logs/ of the data directory")]
            return [ok("starts on this machine when a run is due")]
        asked_at = self._runs.asked_at
        if asked_at is not None and (ago := self._runs.clock() - asked_at) <= HEARD_S:
            return [
                ok(f"runs elsewhere and asked for a run {ago:.0f} s ago"),
                warning("the learner runs elsewhere: whether the model fits there was not tried", "memory"),
            ]
        return [
            failed(
                f"no learner has asked for a run within {HEARD_S:.0f} s: start one (`python -m learner run`), or set "
                "learner.start"
            )
        ]

    async def space(self) -> list[Finding]:
        """Return whether the disks have space now."""
        part = await self._disk()
        free = part.figures.get("free_bytes", 0.0) / GIB
        if not part.ok:
            return [failed(part.advice or part.state)]
        return [ok(f"{free:.1f} GiB are free")]

    async def serving(self) -> list[Finding]:
        """Return whether the engine answers."""
        if not await self._engine.healthy():
            return [failed("does not answer: see logs/ in the data directory")]
        how = (
            "new adapters are loaded next to it"
            if self._engine.adapters
            else "new weights replace it, which is not tried while it serves (`python -m server doctor` tries it)"
        )
        return [ok(f"answers in {self._engine.precision}; {how}")]

    @property
    def here(self) -> bool:
        """Whether the learner runs on this machine."""
        return self._learner is not None

    async def rehearse(self, report: Report, name: str, run: RunView) -> None:
        """Let the learner rehearse a run, and report its stages.

        Args:
            report: gets the findings.
            name: the triggers that start the run.
            run: the run as a learner would claim it now.
        """
        if self._learner is None:
            return
        async with self._process(self._learner, run) as process:
            stages = _Stages(process, self._learner)

            async def state() -> list[Finding]:
                figures = await stages.next("state")
                return stages.failure or [_state(run, figures)]

            async def horizon() -> list[Finding]:
                figures = await stages.next("horizon")
                return stages.failure or [_horizon(run.config, run.first_step, figures["horizon"])]

            async def step() -> list[Finding]:
                figures = await stages.next("step")
                return stages.failure or [ok("a dry learner step trained"), await self._room(figures)]

            async def version() -> list[Finding]:
                figures = await stages.next("version")
                return stages.failure or [await self._loaded(figures)]

            async def memory() -> list[Finding]:
                figures = await stages.next("row")
                return stages.failure or [_memory(figures)]

            work = {"state": state, "horizon": horizon, "learner step": step}
            work |= {"engine": version} if run.config.kind == "adapter" else {}
            for what, rehearsed in (work | {"memory": memory}).items():
                await report.attempt(what, STAGE_LIMIT_S, rehearsed, name)
                if stages.failure:
                    return

    @asynccontextmanager
    async def _process(self, learner: LearnerProcess, run: RunView) -> AsyncIterator[asyncio.subprocess.Process]:
        """Start a learner on a description of the run, in a directory of its own that is deleted afterwards."""
        directory = learner.work_dir / "rehearsal"
        described = {"run": run.model_dump(mode="json"), "context_tokens": self._engine.context_tokens}
        await asyncio.to_thread(_describe, directory, described)
        try:
            async with learner.rehearsing(directory / "run.json") as process:
                yield process
        finally:
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)

    async def _room(self, figures: dict[str, Any]) -> Finding:
        """Return whether the run's checkpoints and versions fit the learner's disk."""
        needed = figures["checkpoints_bytes"] + (self._newest + 2) * figures["version_bytes"]
        free, least = figures["disk_free_bytes"], (await self._disk()).figures.get("min_free_bytes", 0.0)
        text = f"checkpoints and versions take up to {needed / GIB:.1f} GiB, and {free / GIB:.1f} GiB are free"
        if free - needed < least:
            return failed(f"{text}, of which {least / GIB:.1f} GiB must stay free: free space", "disk")
        return ok(text, "disk")

    async def _loaded(self, figures: dict[str, Any]) -> Finding:
        """Return whether the engine can hold one more adapter, and answers with it as the learner computes."""
        check = await self._publisher.try_adapter(
            Path(figures["path"]), figures["manifest_sha256"], Probe.model_validate(figures["probe"])
        )
        return ok(f"loaded a new adapter, agreed with the learner to {check.mean:.4f} nats, and unloaded it")


class _Stages:
    """The lines of a learner that rehearses."""

    def __init__(self, process: asyncio.subprocess.Process, learner: LearnerProcess) -> None:
        self._process = process
        self._learner = learner
        self.failure: list[Finding] = []
        """Why there is no further stage."""

    async def next(self, stage: str) -> dict[str, Any]:
        """Return the figures of a stage once it is done; after a failure they are empty, and `failure` is set."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            try:
                said = json.loads(line)
            except ValueError:  # A library printed something.
                continue
            if isinstance(said, dict) and said.get("stage") == stage:
                return said
            if isinstance(said, dict) and said.get("stage") == "error":
                self.failure = [failed(said["message"], AT.get(said["at"], "learner"))]
                return {}
        self.failure = [failed(await self._why_it_ended())]
        return {}

    async def _why_it_ended(self) -> str:
        code = await self._process.wait()
        if self._learner.busy:
            return f"not finished, since {INTERRUPTED}"
        if code in (137, -9):
            return (
                "the learner was killed, as the system does when memory is short: free memory, or use a smaller model"
            )
        return f"the learner ended with status {code}: see {self._learner.rehearsal_log}"


def _describe(directory: Path, described: dict[str, Any]) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    (directory / "run.json").write_text(json.dumps(described))


def _state(run: RunView, figures: dict[str, Any]) -> Finding:
    size = f"{figures['parameters'] / 1e6:.0f} M parameters"
    if run.follows is None:
        return ok(f"the learner loads the weights with which it begins, {size}")
    if count := figures["repeated_steps"]:
        return warning(
            f"the learner loads the state, {size}, but its last checkpoint lacks {count} steps of run "
            f"{run.follows.run_id}: the run repeats them first, which takes their time again"
        )
    return ok(f"the learner loads exactly the state that it continues, {size}")


def _horizon(config: RunConfig, first_step: int, horizon: int) -> Finding:
    schedule = config.schedule
    if schedule.kind == "fixed":
        return ok(f"{horizon} turns")
    return ok(f"{horizon} turns at global step {first_step}, of the stages {', '.join(map(str, schedule.rounds))}")


def _memory(figures: dict[str, Any]) -> Finding:
    peak, free = figures["peak_bytes"], figures["free_bytes"]
    text = f"a step with a row of {figures['tokens']} tokens takes {peak / GIB:.1f} GiB"
    if free is None:
        return ok(text)
    text += f" of {free / GIB:.1f} GiB that were free"
    if peak > CLOSE * free:
        return warning(f"{text}: free memory, or start the learner with --activation-checkpointing")
    return ok(text)
