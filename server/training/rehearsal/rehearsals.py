"""Rehearsals: one at a time, in memory only, ended after their time whatever happens. `checks.py` makes the checks."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from server import background
from server.errors import Conflict, NotFound
from server.store.database import Database, new_id
from server.store.tables import RunRow
from server.training.rehearsal.checks import Checks
from server.training.rehearsal.report import Report, failed
from server.training.rehearsal.tonight import triggers_of
from server.training.scheduling.schedule import Schedule
from upturn.wire import RehearsalRequest, RehearsalView, TriggerView

log = logging.getLogger("upturn.rehearsal")


@dataclass(slots=True)
class Rehearsal:
    """One rehearsal."""

    request: RehearsalRequest
    id: str = field(default_factory=lambda: new_id("rehearsal"))
    report: Report = field(default_factory=Report)
    created_at: float = field(default_factory=time.time)
    ended_at: float | None = None
    state: str = "running"
    task: asyncio.Task[None] | None = None

    def view(self) -> RehearsalView:
        """Return the results so far."""
        return RehearsalView(
            id=self.id,
            state=self.state,  # type: ignore[arg-type]
            checks=list(self.report.checks),
            pending=list(self.report.pending),
            created_at=self.created_at,
            seconds=max(0.0, (self.ended_at or time.time()) - self.created_at),
        )


class Rehearsals:
    """Starts rehearsals, and keeps the last one."""

    def __init__(self, checks: Checks, schedule: Schedule, database: Database) -> None:
        self._checks = checks
        self._schedule = schedule
        self._database = database
        self._last: Rehearsal | None = None

    async def start(self, request: RehearsalRequest) -> RehearsalView:
        """Start a rehearsal.

        Raises:
            NotFound: there is no such trigger.
            Conflict: a rehearsal or a run is in progress.
        """
        before = self._last
        if before is not None and before.state == "running":
            raise Conflict(f"{before.id} is in progress: wait for its end, or cancel it", code="rehearsal_in_progress")
        self._last = made = Rehearsal(request)  # Before the first wait: of two requests at once, one is refused.
        try:
            await asyncio.to_thread(self._refuse_during_a_run)
            triggers = triggers_of(request, (await self._schedule.view()).triggers)
        except BaseException:
            self._last = before
            raise
        made.task = asyncio.create_task(self._run(made, triggers))
        return made.view()

    def view(self, rehearsal_id: str) -> RehearsalView:
        """Return the results of the last rehearsal so far.

        Raises:
            NotFound: it is not the last one.
        """
        return self._named(rehearsal_id).view()

    async def cancel(self, rehearsal_id: str) -> RehearsalView:
        """End a rehearsal; one that has ended stays unchanged.

        Raises:
            NotFound: it is not the last one.
        """
        named = self._named(rehearsal_id)
        await background.end(named.task)
        return named.view()

    async def close(self) -> None:
        """End the rehearsal in progress."""
        if self._last is not None:
            await background.end(self._last.task)

    def _named(self, rehearsal_id: str) -> Rehearsal:
        if self._last is None or self._last.id != rehearsal_id:
            raise NotFound(
                f"no rehearsal {rehearsal_id!r}: the server keeps only the last one", code="rehearsal_not_found"
            )
        return self._last

    def _refuse_during_a_run(self) -> None:
        with self._database.read() as session:
            running = session.scalar(sa.select(RunRow.id).where(RunRow.state == "running").limit(1))
        if running is not None:
            raise Conflict(
                f"run {running} is training and needs the memory: rehearse when it has ended", code="run_in_progress"
            )

    async def _run(self, made: Rehearsal, triggers: Sequence[TriggerView]) -> None:
        report, state = made.report, "done"
        try:
            async with asyncio.timeout(made.request.limit_s):
                await self._checks.make(report, made.request, triggers)
        except TimeoutError:
            log.warning("%s was not finished within %.0f s", made.id, made.request.limit_s)
        except asyncio.CancelledError:
            state = "cancelled"
            raise
        except Exception as error:
            log.exception("%s failed", made.id)
            report.add("rehearsal", [failed(f"{type(error).__name__}: see the server's log")])
        finally:
            report.end()
            made.state, made.ended_at = state, time.time()
