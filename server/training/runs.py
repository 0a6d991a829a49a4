"""Training runs, one row each. A unique slot and a lease in SQL allow one run at a time.

A paused run has no learner and keeps its steps: once resumed, it waits in the queue and continues at its step.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.engines.precision import Precision
from server.store.database import Database
from server.store.learner_metrics import metrics_by_step
from server.store.tables import BatchRow, PlayRow, RunRow
from server.store.writer import Writer
from server.training.campaigns.beginnings import begin
from server.training.data.live_episodes import oldest_live
from server.training.outcome import with_outcome
from server.training.run_checks import check_config
from server.training.run_states import (
    SLOT,
    UNFINISHED,
    claimable_run,
    close_run,
    get_run,
    hold,
    new_run,
    pause_run,
    resume_run,
    stop_clock,
    unfinished,
)
from server.versions.routing import Pointers
from upturn.outcome import nothing_to_learn
from upturn.wire import RunClaim, RunConfig, RunEnd, RunFollows, RunStep, RunView

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
        precision: Callable[[], Precision | None] = lambda: None,
    ) -> None:
        """Connect the parts.

        Args:
            database: read by the views.
            writer: the database's one writer.
            pointers: name the versions that serve.
            lease_s: how long a learner holds a run without a heartbeat.
            clock: returns Unix time.
            precision: returns the data type in which the engine computes.
        """
        self._database = database
        self._writer = writer
        self._pointers = pointers
        self._lease_s = lease_s
        self.clock = clock
        self._precision = precision
        self._heard_at: float | None = None
        """When this process last granted or renewed a lease; None once the run has ended."""
        self.asked_at: float | None = None
        """When a learner last asked this process for a run; None if none has."""

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
        complete = self.resolved(config)
        run_id = await self._writer.write(lambda session: new_run(session, complete, trigger, self.clock()).id)
        return await self.view(run_id)

    def resolved(self, config: RunConfig) -> RunConfig:
        """Return a config with the defaults that depend on the weights that this server serves."""
        return config.resolved(self._pointers.weights)

    def check(self, config: RunConfig) -> None:
        """Refuse a run that this server cannot serve, or whose horizon could never grow.

        Raises:
            BadRequest: as in `run_checks.py`.
        """
        check_config(config, self._pointers.weights, self._precision())

    async def claim(self, request: RunClaim) -> RunView | None:
        """Give a learner the run whose learner was lost, or the oldest queued one; None if no run is due.

        Raises:
            NotFound: the request names a run that does not exist.
        """

        def take(session: Session) -> str | None:
            now = self.clock()
            row = claimable_run(session, request.learner, request.run_id, now)
            if row is None:
                return None
            if row.state == "queued":
                if row.started_at is None:
                    begin(session, row)
                row.started_at = row.started_at or now
                if row.first_version is None:
                    row.first_version = self._pointers.head if row.campaign_id is None else self._pointers.champion
                if row.oldest_live is None:
                    row.oldest_live = oldest_live(session, RunConfig.model_validate(row.config))
            else:
                stop_clock(row, min(now, row.lease_until or now))
            row.state, row.slot, row.learner, row.lease_until = "running", SLOT, request.learner, now + self._lease_s
            row.resumed_at = now
            session.flush()  # The unique slot: if two servers claim at once, one fails here.
            return row.id

        self.asked_at = self.clock()
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
        """End the lease of a learner that stops, so that another may claim its run at once.

        A learner that holds no run releases nothing. A heartbeat that arrives later does not renew the lease.
        """

        def give_back(session: Session) -> bool:
            row = session.scalar(sa.select(RunRow).where(RunRow.learner == learner, RunRow.state == "running"))
            if row is not None:
                row.learner, row.lease_until = None, min(self.clock(), row.lease_until or self.clock())
            return row is not None

        if await self._writer.write(give_back):
            self._heard_at = None

    async def due(self, learner: str) -> str | None:
        """Return the id of the run that a learner would get by claiming one."""

        def read() -> str | None:
            with self._database.read() as session:
                row = claimable_run(session, learner, None, self.clock())
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
            row = hold(session, run_id, end.learner)
            reason = with_outcome(session, run_id, end.reason) if end.state == "done" else end.reason
            row.collapsed = end.collapsed
            close_run(row, end.state, reason, self.clock())

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
            row = get_run(session, run_id)
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
                count = sa.select(BatchRow.run_id, sa.func.count()).where(BatchRow.published)
                trained = dict(session.execute(count.group_by(BatchRow.run_id)).all())
                rows = session.scalars(sa.select(RunRow).order_by(RunRow.id.desc()))
                return [self._view(row, [], trained.get(row.id, 0)) for row in rows]

        return await asyncio.to_thread(read)

    def _read(self, run_id: str) -> RunView:
        with self._database.read() as session:
            row = get_run(session, run_id)
            batches = session.scalars(
                sa.select(BatchRow)
                .where(BatchRow.run_id == run_id, BatchRow.state == "trained")
                .order_by(BatchRow.step)
            ).all()
            gathering = session.scalar(
                sa.select(sa.func.coalesce(sa.func.max(PlayRow.id), BatchRow.play_id))
                .outerjoin(PlayRow, PlayRow.batch_id == BatchRow.id)
                .where(BatchRow.run_id == run_id, BatchRow.step == row.step, BatchRow.state == "gathering")
                .group_by(BatchRow.play_id)
            )
            metrics = metrics_by_step(session, run_id)
        return self._view(
            row,
            [
                RunStep(
                    step=b.step,
                    horizon=b.horizon,
                    policy_version=b.policy_version,
                    metrics=metrics[b.step],
                    nothing_to_learn=nothing_to_learn(metrics[b.step]),
                )
                for b in batches
            ],
            sum(b.published for b in batches),
            gathering if row.state == "running" else None,
        )

    def _view(self, row: RunRow, steps: list[RunStep], trained_steps: int, play_id: str | None = None) -> RunView:
        return RunView(
            id=row.id,
            state=row.state,  # type: ignore[arg-type]
            trigger=row.trigger,
            config=RunConfig.model_validate(row.config),
            step=row.step,
            trained_steps=trained_steps,
            reason=row.reason,
            learner=row.learner,
            first_step=row.first_step,
            follows=None
            if row.follows_id is None or row.follows_step is None
            else RunFollows(run_id=row.follows_id, step=row.follows_step),
            attempt=row.attempt,
            first_version=row.first_version,
            last_version=row.last_version,
            play_id=play_id,
            precision=self._precision() if row.state in UNFINISHED else None,
            gate=row.gate,  # type: ignore[arg-type]
            created_at=row.created_at,
            started_at=row.started_at,
            ended_at=row.ended_at,
            steps=steps,
        )
