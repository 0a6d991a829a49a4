"""Training runs, one row each. A unique slot and a lease in SQL allow one run at a time.

A paused run has no learner and keeps its steps: once resumed, it waits in the queue and continues at its step.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.errors import BadRequest, Conflict, NotFound
from server.store.database import Database, new_id
from server.store.tables import BatchRow, MetricRow, RunRow
from server.store.writer import Writer
from server.versions.routing import Pointers
from upturn.wire import RunClaim, RunConfig, RunEnd, RunStep, RunView

SLOT = "learner"
UNFINISHED = ("queued", "running", "paused")
BY_REQUEST = "paused by request"


class Runs:
    """All runs. A learner holds a run through a lease, which its heartbeats renew."""

    def __init__(
        self,
        database: Database,
        writer: Writer,
        pointers: Pointers,
        lease_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._writer = writer
        self._pointers = pointers
        self._lease_s = lease_s
        self.clock = clock
        self._heard_at: float | None = None
        """When this process last granted or renewed a lease; None once the run has ended."""

    @property
    def training(self) -> bool:
        """Whether a learner is training, as far as this process knows."""
        return self._heard_at is not None and self.clock() - self._heard_at < self._lease_s

    async def create(self, config: RunConfig, trigger: str) -> RunView:
        """Queue a run.

        Raises:
            BadRequest: this server serves another kind of weights.
        """
        self.check(config)
        row = new_run(config, trigger, self.clock())
        await self._writer.write(lambda session: session.add(row))
        return await self.view(row.id)

    def check(self, config: RunConfig) -> None:
        """Refuse a run that this server cannot serve.

        Raises:
            BadRequest: the server serves another kind of weights.
        """
        served = "full" if self._pointers.shared else "adapter"
        if config.kind != served:
            raise BadRequest(
                f"this server serves {served} weights, the run trains {config.kind}",
                param="config.kind",
                code="wrong_kind",
            )

    async def claim(self, request: RunClaim) -> RunView | None:
        """Give a learner the run whose learner was lost, or the oldest queued one; None if no run is due.

        Raises:
            NotFound: the request names a run that does not exist.
        """

        def take(session: Session) -> str | None:
            now = self.clock()
            row = _due(session, request.learner, request.run_id, now)
            if row is None:
                return None
            if row.state == "queued":
                row.started_at = row.started_at or now
                row.first_version = self._pointers.head if row.first_version is None else row.first_version
            else:
                _stop_clock(row, min(now, row.lease_until or now))
            row.state, row.slot, row.learner, row.lease_until = "running", SLOT, request.learner, now + self._lease_s
            row.resumed_at = now
            session.flush()  # The unique slot: if two servers claim at once, one fails here.
            return row.id

        if request.run_id is not None:
            await self.view(request.run_id)
        try:
            run_id = await self._writer.write(take)
        except sa.exc.IntegrityError:
            return None
        if run_id is None:
            return None
        self._heard_at = self.clock()
        return await self.view(run_id)

    async def heartbeat(self, run_id: str, learner: str) -> None:
        """Renew a learner's lease.

        Raises:
            Conflict: the run has ended or another learner holds it.
        """

        def renew(session: Session) -> None:
            hold(session, run_id, learner).lease_until = self.clock() + self._lease_s

        await self._writer.write(renew)
        self._heard_at = self.clock()

    async def release(self, learner: str) -> None:
        """End the lease of a learner that was shut down, so that another may claim its run at once."""
        change = (
            sa.update(RunRow)
            .where(RunRow.learner == learner, RunRow.state == "running")
            .values(lease_until=self.clock())
        )
        await self._writer.write(lambda session: session.execute(change))

    async def due(self, learner: str) -> str | None:
        """Return the id of the run that a learner would get by claiming one."""

        def read() -> str | None:
            with self._database.read() as session:
                row = _due(session, learner, None, self.clock())
                return None if row is None else row.id

        return await asyncio.to_thread(read)

    async def pause(self, run_id: str) -> RunView:
        """Take a run from its learner, which learns of it at its next call; steps and batch are kept.

        Raises:
            NotFound: no such run.
            Conflict: the run has ended.
        """
        await self._writer.write(lambda session: pause_run(unfinished(session, run_id), BY_REQUEST, self.clock()))
        return await self.view(run_id)

    async def resume(self, run_id: str) -> RunView:
        """Queue a paused run to continue at its step; other runs are left unchanged.

        Raises:
            NotFound: no such run.
            Conflict: the run has ended.
        """
        await self._writer.write(lambda session: resume_run(unfinished(session, run_id), self.clock()))
        return await self.view(run_id)

    async def end(self, run_id: str, end: RunEnd) -> RunView:
        """Record how a run ended.

        Raises:
            NotFound: no such run.
            Conflict: the learner does not hold the run.
        """

        def finish(session: Session) -> None:
            close_run(hold(session, run_id, end.learner), end.state, end.reason, self.clock())

        await self._writer.write(finish)
        self._heard_at = None
        return await self.view(run_id)

    async def cancel(self, run_id: str, reason: str = "cancelled by request") -> RunView:
        """Cancel a run; its learner learns of it at its next call.

        Raises:
            NotFound: no such run.
            Conflict: the run has ended.
        """

        def finish(session: Session) -> None:
            close_run(unfinished(session, run_id), "cancelled", reason, self.clock())

        await self._writer.write(finish)
        return await self.view(run_id)

    async def fail(self, run_id: str, reason: str) -> None:
        """Mark an unfinished run as failed, since its learner died too often."""

        def finish(session: Session) -> None:
            row = _get(session, run_id)
            if row.state in UNFINISHED:
                close_run(row, "failed", reason, self.clock())

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

    def _read(self, run_id: str) -> RunView:
        with self._database.read() as session:
            row = _get(session, run_id)
            batches = session.scalars(
                sa.select(BatchRow)
                .where(BatchRow.run_id == run_id, BatchRow.state == "trained")
                .order_by(BatchRow.step)
            ).all()
            metrics: dict[int, dict[str, float]] = {}
            for metric in session.scalars(sa.select(MetricRow).where(MetricRow.run_id == run_id)):
                metrics.setdefault(metric.step, {})[metric.name] = metric.value
        return _view(
            row,
            [
                RunStep(
                    step=b.step, horizon=b.horizon, policy_version=b.policy_version, metrics=metrics.get(b.step, {})
                )
                for b in batches
            ],
        )


def hold(session: Session, run_id: str, learner: str) -> RunRow:
    """Return a run that this learner holds.

    Raises:
        NotFound: no such run.
        Conflict: the run was cancelled or paused, has ended, or is held by another learner.
    """
    row = _get(session, run_id)
    if row.state == "cancelled":
        raise Conflict(f"run {run_id} was cancelled", code="run_cancelled")
    if row.state in ("queued", "paused"):
        raise Conflict(f"run {run_id} has no learner: it is {row.state}", code="lease_lost")
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


def unfinished(session: Session, run_id: str) -> RunRow:
    """Return a run that has not ended.

    Raises:
        NotFound: no such run.
        Conflict: the run has ended.
    """
    row = _get(session, run_id)
    if row.state not in UNFINISHED:
        raise Conflict(f"run {run_id} has ended ({row.state})", code="run_ended")
    return row


def new_run(config: RunConfig, trigger: str, now: float) -> RunRow:
    """Return the row of a new queued run."""
    return RunRow(
        id=new_id("run"),
        state="queued",
        trigger=trigger,
        config=config.model_dump(mode="json"),
        step=0,
        active_s=0.0,
        gate="due" if config.evaluation else None,
        created_at=now,
    )


def pause_run(row: RunRow, reason: str, now: float) -> None:
    """Pause an unfinished run and take it from its learner."""
    if row.state == "running":
        _stop_clock(row, now)
    row.state, row.reason, row.slot, row.learner, row.lease_until = "paused", reason, None, None, None


def resume_run(row: RunRow, now: float) -> None:
    """Queue a paused run."""
    if row.state == "paused":
        row.state, row.reason, row.resumed_at = "queued", None, now


def close_run(row: RunRow, state: str, reason: str, now: float) -> None:
    """End a run."""
    if row.state == "running":
        _stop_clock(row, now)
    row.state, row.reason, row.slot, row.lease_until, row.ended_at = state, reason, None, None, now


def active_s(row: RunRow, now: float) -> float:
    """Return the running time of a run in seconds, without pauses."""
    began = row.resumed_at if row.state == "running" else None
    return row.active_s + (max(0.0, now - began) if began is not None else 0.0)


def _stop_clock(row: RunRow, now: float) -> None:
    row.active_s, row.resumed_at = active_s(row, now), now


def _due(session: Session, learner: str, run_id: str | None, now: float) -> RunRow | None:
    """Return the run that a learner may claim: the run whose learner was lost, otherwise the oldest queued one."""
    running = session.scalar(sa.select(RunRow).where(RunRow.slot == SLOT))
    if running is not None:
        lost = (running.lease_until or 0) <= now or running.learner == learner
        return running if lost and run_id in (None, running.id) else None
    tried = sa.select(RunRow.id).where(RunRow.gate == "canary")
    if session.scalar(undecided().limit(1)) is not None or session.scalar(tried.limit(1)) is not None:
        return None  # The evaluation needs the current versions, and the next run builds on its decision.
    due = sa.select(RunRow).where(RunRow.state == "queued").order_by(RunRow.id).limit(1)
    return session.scalar(due if run_id is None else due.where(RunRow.id == run_id))


def undecided() -> sa.Select[RunRow]:
    """Return the query of ended runs that wait for the promotion gate, earliest end first."""
    return sa.select(RunRow).where(RunRow.gate == "due", RunRow.ended_at.is_not(None)).order_by(RunRow.ended_at)


def _view(row: RunRow, steps: list[RunStep]) -> RunView:
    return RunView(
        id=row.id,
        state=row.state,  # type: ignore[arg-type]
        trigger=row.trigger,
        config=RunConfig.model_validate(row.config),
        step=row.step,
        reason=row.reason,
        learner=row.learner,
        first_version=row.first_version,
        last_version=row.last_version,
        gate=row.gate,  # type: ignore[arg-type]
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        steps=steps,
    )
