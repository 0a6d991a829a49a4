"""Training runs: a row each, from start to end; one at a time, by a unique slot and a lease in SQL."""

from __future__ import annotations

import asyncio
import time

import sqlalchemy as sa
from sqlalchemy.orm import Session

from clients.wire import RunClaim, RunConfig, RunEnd, RunStep, RunView
from server.errors import BadRequest, Conflict, NotFound
from server.policy.routing import Pointers
from server.store.database import Database, new_id
from server.store.tables import BatchRow, MetricRow, RunRow
from server.store.writer import Writer

SLOT = "learner"
UNFINISHED = ("queued", "running")


class Runs:
    """All runs. A learner holds a run by a lease that its heartbeats renew."""

    def __init__(self, database: Database, writer: Writer, pointers: Pointers, lease_s: float) -> None:
        self._database = database
        self._writer = writer
        self._pointers = pointers
        self._lease_s = lease_s

    async def create(self, config: RunConfig, trigger: str) -> RunView:
        """Queue a run.

        Raises:
            BadRequest: this server serves another kind of weights.
        """
        served = "full" if self._pointers.shared else "adapter"
        if config.kind != served:
            raise BadRequest(f"this server serves {served} weights, the run trains {config.kind}", param="config.kind",
                             code="wrong_kind")
        row = RunRow(id=new_id("run"), state="queued", trigger=trigger, config=config.model_dump(mode="json"), step=0,
                     created_at=time.time())
        await self._writer.write(lambda session: session.add(row))
        return await self.view(row.id)

    async def claim(self, request: RunClaim) -> RunView | None:
        """Give a learner a run: one whose learner was lost, or the oldest queued; None where nothing is due."""
        def take(session: Session) -> str | None:
            now = time.time()
            running = session.scalar(sa.select(RunRow).where(RunRow.slot == SLOT))
            if running is not None:
                lost = (running.lease_until or 0) < now or running.learner == request.learner
                if not lost or request.run_id not in (None, running.id):
                    return None
                row: RunRow | None = running
            else:
                due = sa.select(RunRow).where(RunRow.state == "queued").order_by(RunRow.id).limit(1)
                if request.run_id is not None:
                    due = due.where(RunRow.id == request.run_id)
                row = session.scalar(due)
            if row is None:
                return None
            if row.state == "queued":
                row.first_version, row.started_at = self._pointers.head, now
            row.state, row.slot, row.learner, row.lease_until = "running", SLOT, request.learner, now + self._lease_s
            session.flush()  # The unique slot: of two servers that claim at once, one fails here.
            return row.id
        if request.run_id is not None:
            await self.view(request.run_id)
        try:
            run_id = await self._writer.write(take)
        except sa.exc.IntegrityError:
            return None
        return await self.view(run_id) if run_id else None

    async def heartbeat(self, run_id: str, learner: str) -> None:
        """Renew a learner's lease.

        Raises:
            Conflict: the run has ended or another learner holds it.
        """
        def renew(session: Session) -> None:
            hold(session, run_id, learner).lease_until = time.time() + self._lease_s
        await self._writer.write(renew)

    async def release(self, learner: str) -> None:
        """Let go of what a learner holds: it has been stopped in order, and its run may go on at once elsewhere."""
        change = sa.update(RunRow).where(RunRow.learner == learner, RunRow.state == "running").values(lease_until=0.0)
        await self._writer.write(lambda session: session.execute(change))

    async def end(self, run_id: str, end: RunEnd) -> RunView:
        """Record how a run ended."""
        def finish(session: Session) -> None:
            _close(hold(session, run_id, end.learner), end.state, end.reason)
        await self._writer.write(finish)
        return await self.view(run_id)

    async def cancel(self, run_id: str, reason: str = "cancelled by request") -> RunView:
        """Cancel a run; its learner hears of it at its next call."""
        def finish(session: Session) -> None:
            row = _get(session, run_id)
            if row.state not in UNFINISHED:
                raise Conflict(f"run {run_id} has ended ({row.state})", code="run_ended")
            _close(row, "cancelled", reason)
        await self._writer.write(finish)
        return await self.view(run_id)

    async def fail(self, run_id: str, reason: str) -> None:
        """Mark an unfinished run failed: its learner died too often."""
        def finish(session: Session) -> None:
            row = _get(session, run_id)
            if row.state in UNFINISHED:
                _close(row, "failed", reason)
        await self._writer.write(finish)

    async def view(self, run_id: str) -> RunView:
        """Return one run with its steps."""
        return await asyncio.to_thread(self._read, run_id)

    async def views(self) -> list[RunView]:
        """Return all runs without their steps, newest first."""
        def read() -> list[RunView]:
            with self._database.read() as session:
                return [_view(row, []) for row in session.scalars(sa.select(RunRow).order_by(RunRow.id.desc()))]
        return await asyncio.to_thread(read)

    async def unfinished(self) -> list[str]:
        """Return the ids of runs that wait or run, oldest first."""
        def read() -> list[str]:
            with self._database.read() as session:
                return list(session.scalars(sa.select(RunRow.id).where(RunRow.state.in_(UNFINISHED))
                                            .order_by(RunRow.id)))
        return await asyncio.to_thread(read)

    def _read(self, run_id: str) -> RunView:
        with self._database.read() as session:
            row = _get(session, run_id)
            batches = session.scalars(sa.select(BatchRow).where(BatchRow.run_id == run_id, BatchRow.state == "trained")
                                      .order_by(BatchRow.step)).all()
            metrics: dict[int, dict[str, float]] = {}
            for metric in session.scalars(sa.select(MetricRow).where(MetricRow.run_id == run_id)):
                metrics.setdefault(metric.step, {})[metric.name] = metric.value
        return _view(row, [RunStep(step=b.step, horizon=b.horizon, policy_version=b.policy_version,
                                   metrics=metrics.get(b.step, {})) for b in batches])


def hold(session: Session, run_id: str, learner: str) -> RunRow:
    """Return a run that this learner holds.

    Raises:
        NotFound: there is no such run.
        Conflict: it was cancelled, has ended, or is another learner's.
    """
    row = _get(session, run_id)
    if row.state == "cancelled":
        raise Conflict(f"run {run_id} was cancelled", code="run_cancelled")
    if row.state != "running":
        raise Conflict(f"run {run_id} is {row.state}", code="run_ended")
    if row.learner != learner:
        raise Conflict(f"run {run_id} is held by {row.learner!r}", code="lease_lost")
    return row


def _get(session: Session, run_id: str) -> RunRow:
    row = session.get(RunRow, run_id)
    if row is None:
        raise NotFound(f"no run {run_id!r}", code="run_not_found")
    return row


def _close(row: RunRow, state: str, reason: str) -> None:
    row.state, row.reason, row.slot, row.lease_until, row.ended_at = state, reason, None, None, time.time()


def _view(row: RunRow, steps: list[RunStep]) -> RunView:
    return RunView(
        id=row.id, state=row.state, trigger=row.trigger, config=RunConfig.model_validate(row.config), step=row.step,  # type: ignore[arg-type]
        reason=row.reason, learner=row.learner, first_version=row.first_version, last_version=row.last_version,
        created_at=row.created_at, started_at=row.started_at, ended_at=row.ended_at, steps=steps)
