"""The schedule: runs start by request, or by triggers within windows of the day.

Rows of triggers record which are due and which runs they started, so servers that share a database start one run, and a
trigger that was missed while all of them were down starts one run. `check` does all the work; a background task calls
it on time. `dispatch.py` decides, `triggers.py` computes times.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server import background
from server.errors import BadRequest, Conflict, NotFound, Unavailable
from server.store.database import BROKEN, Database
from server.store.tables import TriggerRow
from server.store.writer import Writer
from server.training.learner_process import LearnerProcess
from server.training.runs import Runs
from server.training.scheduling.dispatch import Activity, Dispatcher, unfinished_run, waits_for
from server.training.scheduling.settings import ScheduleSettings
from server.training.scheduling.triggers import check_trigger, next_time, read_trigger
from server.training.scheduling.windows import Windows
from upturn.wire import RunConfig, RunView, ScheduleView, Trigger, TriggerCreate, TriggerView

log = logging.getLogger("upturn.schedule")
MAX_PAUSE_S = 60.0  # Longest pause between two checks: other servers and late rewards change what is due.
MIN_PAUSE_S = 1.0  # Shortest: many episodes may end at once, and every check counts them.
MAX_LOAD = 0.05  # Share of the time that counting may take, up to the longest pause.
CLOCK_S = 1.0  # Longest time between two looks at the clock: it jumps if it is set, or after a machine was suspended.
MAX_TRIGGERS = 100


class Schedule:
    """All triggers, and the background task that checks them."""

    def __init__(
        self,
        settings: ScheduleSettings,
        database: Database,
        writer: Writer,
        runs: Runs,
        learner: LearnerProcess | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._database = database
        self._writer = writer
        self._runs = runs
        self._learner = learner
        self.clock = clock
        self._dispatcher = Dispatcher(settings, runs.resolved)
        self._windows = self._dispatcher.windows
        self._counts_episodes = False
        """Whether any trigger counts episodes."""
        self._counted_in_s = 0.0
        """How long the last count took."""
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def windows(self) -> Windows:
        """When triggers may start runs."""
        return self._windows

    def run_of(self, trigger: Trigger) -> RunConfig:
        """Return the run that a trigger starts.

        Raises:
            BadRequest: neither the trigger nor the settings configure one.
        """
        return self._dispatcher.run_of(trigger)

    async def start(self) -> None:
        """Write the triggers of the settings into the database, and start checking.

        Raises:
            BadRequest: a trigger starts a run that this server cannot serve.
        """
        for trigger in self._settings.triggers.values():
            self._runs.check(self._dispatcher.run_of(trigger))
        await self.store_settings()
        self._task = asyncio.create_task(self._check_repeatedly())

    async def close(self) -> None:
        """Stop checking."""
        await background.end(self._task)

    def wake(self) -> None:
        """Check soon: something happened that a trigger may wait for."""
        self._wake.set()

    def episode_scored(self, _episode_id: str) -> None:
        """Check soon if a trigger counts episodes: an episode has ended or has received a reward."""
        if self._counts_episodes:
            self.wake()

    async def request(self, config: RunConfig, trigger: str) -> RunView:
        """Queue a run now, whether or not a window is open, and wake the learner."""
        run = await self._runs.create(config, trigger)
        self._wake_learner()
        return run

    async def resume(self, run_id: str) -> RunView:
        """Resume a paused run, and wake the learner."""
        run = await self._runs.resume(run_id)
        self._wake_learner()
        return run

    async def add(self, request: TriggerCreate) -> TriggerView:
        """Set a trigger.

        Raises:
            BadRequest: it can never start a run.
            Conflict: the name is taken, or there are too many triggers.
        """
        try:
            check_trigger(request.trigger)
        except ValueError as error:
            raise BadRequest(str(error), param="trigger", code="bad_trigger") from error
        self._runs.check(self._dispatcher.run_of(request.trigger))

        def insert(session: Session) -> None:
            if session.get(TriggerRow, request.name) is not None:
                raise Conflict(f"trigger {request.name!r} already exists", param="name", code="trigger_exists")
            if (session.scalar(sa.select(sa.func.count()).select_from(TriggerRow)) or 0) >= MAX_TRIGGERS:
                raise Conflict(f"there are already {MAX_TRIGGERS} triggers, the maximum", code="too_many_triggers")
            session.add(_new_row(request.name, "api", request.trigger, self.clock()))

        await self._writer.write(insert)
        self.wake()
        return next(view for view in (await self.view()).triggers if view.name == request.name)

    async def remove(self, name: str) -> None:
        """Remove a trigger that was set through the API.

        Raises:
            NotFound: the trigger does not exist.
            Conflict: it is defined in the settings.
        """

        def delete(session: Session) -> None:
            row = session.get(TriggerRow, name)
            if row is None:
                raise NotFound(f"trigger {name!r} does not exist", code="trigger_not_found")
            if row.source == "settings":
                raise Conflict(f"trigger {name!r} is defined in the settings", code="trigger_of_settings")
            session.delete(row)

        await self._writer.write(delete)

    async def view(self) -> ScheduleView:
        """Return all triggers, and what each waits for."""
        return await asyncio.to_thread(self._view)

    async def check(self) -> float:
        """Start, pause or resume what is due; return the seconds until time alone can make something due."""
        now = self.clock()
        activity = await asyncio.to_thread(self._count, now)
        self._counts_episodes = bool(activity.scored)
        work, next_at = await self._writer.write(lambda session: self._dispatcher.dispatch(session, now, activity))
        if work:
            self._wake_learner()
        times = [at for at in (next_at, self._windows.next_change(now)) if at is not None]
        return min(MAX_PAUSE_S, max(0.0, min(times) - now)) if times else MAX_PAUSE_S

    async def store_settings(self) -> None:
        """Replace the stored triggers of the settings by the current ones; an unchanged trigger keeps its state."""

        def store(session: Session) -> None:
            now = self.clock()
            for row in session.scalars(sa.select(TriggerRow).where(TriggerRow.source == "settings")):
                if row.name not in self._settings.triggers:
                    session.delete(row)
            for name, trigger in self._settings.triggers.items():
                new, stored = _new_row(name, "settings", trigger, now), session.get(TriggerRow, name)
                if stored is None or stored.source != "settings" or stored.rule != new.rule:
                    session.merge(new)

        with contextlib.suppress(sa.exc.IntegrityError):  # Another server starting now has stored the same triggers.
            await self._writer.write(store)

    async def _check_repeatedly(self) -> None:
        while True:
            wait_s, checked_at = MAX_PAUSE_S, self.clock()
            try:
                wait_s = await self.check()
            except (*BROKEN, Unavailable) as error:
                log.warning("cannot check the schedule, retrying: %s", error)
            await self._wait(max(MIN_PAUSE_S, wait_s), checked_at)
            self._wake.clear()

    async def _wait(self, pause_s: float, checked_at: float) -> None:
        """Wait until a check is asked for, or until a pause has passed: by the clock or in fact, whichever is first."""
        left, end = pause_s, time.monotonic() + pause_s
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), min(left, CLOCK_S))
                await asyncio.sleep(pause_after(self._counted_in_s))
                return
            left = min(checked_at + pause_s - self.clock(), end - time.monotonic())
            if left <= 0:
                return

    def _count(self, now: float) -> Activity:
        began = time.monotonic()
        with self._database.read() as session:
            activity = self._dispatcher.count(session, now)
        self._counted_in_s = time.monotonic() - began
        return activity

    def _view(self) -> ScheduleView:
        now = self.clock()
        activity = self._count(now)
        with self._database.read() as session:
            run = unfinished_run(session)
            rows = session.scalars(sa.select(TriggerRow).order_by(TriggerRow.name)).all()
        opens_at = self._windows.opens_at(now)
        blockers = [f"run {run.id} to end ({run.state})"] if run is not None else []
        blockers += ["the window to open"] if opens_at is not None else []
        return ScheduleView(
            windows=self._windows.texts,
            window_open=opens_at is None,
            window_opens_at=opens_at,
            unfinished_run=None if run is None else run.id,
            triggers=[_trigger_view(row, blockers, activity, now) for row in rows],
            run=self._settings.run,
            pause_outside_windows=self._settings.pause_outside_windows,
        )

    def _wake_learner(self) -> None:
        if self._learner is not None:
            self._learner.wake()


def pause_after(counted_in_s: float) -> float:
    """Return the shortest time, in seconds, between two checks that are asked for, by how long the last count took."""
    return min(MAX_PAUSE_S, max(MIN_PAUSE_S, counted_in_s / MAX_LOAD))


def _new_row(name: str, source: str, trigger: Trigger, now: float) -> TriggerRow:
    return TriggerRow(
        name=name,
        source=source,
        rule=trigger.model_dump(mode="json"),
        next_at=next_time(trigger, now, now),
        created_at=now,
        due_since=None,
        fired_at=None,
        fired_run=None,
        fired_why=None,
    )


def _trigger_view(row: TriggerRow, blockers: list[str], activity: Activity, now: float) -> TriggerView:
    trigger = read_trigger(row.rule)
    return TriggerView(
        name=row.name,
        source=row.source,  # type: ignore[arg-type]
        trigger=trigger,
        next_at=row.next_at,
        due_since=row.due_since,
        waits_for=waits_for(row, trigger, blockers, activity, now),
        fired_at=row.fired_at,
        fired_run=row.fired_run,
        fired_why=row.fired_why,
    )
