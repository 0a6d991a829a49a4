"""The checks of `/readyz`: database, disk, engine, learner, and chat template."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, wait

from sqlalchemy.orm import Session

from server.engines.protocol import Engine
from server.readiness import Check, Part
from server.rendering.load import NO_END
from server.rendering.render import Renderer
from server.store.tables import PlayRow
from server.store.writer import Writer
from server.training.learner_process import LearnerProcess
from server.training.runs import Runs
from server.wiring.disk import disk_check
from server.wiring.parts import Parts

PROBE_S = 10.0
"""Seconds after the last successful write after which a probe writes."""
PROBE_BYTES = 64 * 1024
PROBE_ID = "play_of_readiness"
RETRY_S = 1.0
"""Seconds between probes while writes fail."""
WAIT_S = 0.5
"""Seconds that an answer waits for a probe."""
SLOW_S = 5.0
"""Seconds after which a write that is still waiting counts as failed."""


class DatabaseCheck:
    """Whether writes are done: the last one, and a small one if that was long ago or failed."""

    def __init__(self, writer: Writer, clock: Callable[[], float] = time.monotonic) -> None:
        self._writer = writer
        self._clock = clock
        self._probe: Future[None] | None = None
        self._probed_at = float("-inf")

    async def __call__(self) -> Part:
        """Return the state of the database."""
        now = self._clock()
        pause_s = RETRY_S if self._writer.failing else PROBE_S
        idle = self._probe is None or self._probe.done()
        if idle and now - max(self._probed_at, self._succeeded_at()) >= pause_s:
            self._probe, self._probed_at = self._writer.submit(_probe), now
        if self._probe is not None and not self._probe.done():
            await asyncio.to_thread(wait, [self._probe], WAIT_S)
        waits_s = 0.0 if self._probe is None or self._probe.done() else self._clock() - self._probed_at
        if self._writer.failing:
            advice = "writes fail: free disk space, or see the server's log for why the database cannot be written"
            return Part(False, "writes fail", advice, code="database_unavailable")
        if waits_s >= SLOW_S:
            advice = "a write has been waiting for seconds: end the process that locks the database"
            return Part(False, "locked", advice, code="database_unavailable", figures={"waiting_s": waits_s})
        return Part(True, "ok")

    def _succeeded_at(self) -> float:
        return float("-inf") if self._writer.failing else self._writer.succeeded_at


def engine_check(engine: Engine) -> Check:
    """Return the check of whether the engine answers."""

    async def check() -> Part:
        if await engine.healthy():
            return Part(True, "ok")
        advice = "the engine is starting; if it does not come up, see logs/ in the data directory"
        return Part(False, "starting", advice, code="engine_unavailable")

    return check


def learner_check(learner: LearnerProcess | None, runs: Runs) -> Check:
    """Return the check of the learner, which never makes the server unready: serving continues without one."""

    async def check() -> Part:
        if learner is None:
            return Part(True, "training" if runs.training else "elsewhere", blocks=False)
        figures = {"deaths": learner.deaths}
        advice = None
        if learner.state == "crashed":
            advice = "the learner died too often and its run has failed: see its log, then start another run"
        return Part(advice is None, learner.state, advice, blocks=False, figures=figures)

    return check


def template_check(renderer: Renderer) -> Check:
    """Return the check of whether the model's answers end; it never makes the server unready."""

    async def check() -> Part:
        if renderer.ends_answers:
            return Part(True, "ok")
        return Part(False, "no end of turn", NO_END, blocks=False)

    return check


def checks(parts: Parts) -> dict[str, Check]:
    """Return the checks of a server by the name of the part."""
    return {
        "database": DatabaseCheck(parts.writer),
        "disk": disk_check(parts.settings, parts.database),
        "engine": engine_check(parts.engine),
        "learner": learner_check(parts.learner, parts.runs),
        "template": template_check(parts.renderer),
    }


def _probe(session: Session) -> None:
    """Write as much as a long turn, and leave no row.

    A row of a few bytes would fit where no turn does. SQLite writes the deleted pages too (`secure_delete`).
    """
    row = PlayRow(id=PROBE_ID, state="done", request={"text": "x" * PROBE_BYTES}, created_at=0.0)
    session.add(row)
    session.flush()
    session.delete(row)
