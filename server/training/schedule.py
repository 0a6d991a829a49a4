"""When runs start: by request, or by triggers, within windows of the day.

The rows of the triggers say what is due and what was started, so servers that share a database start one run, and
what was missed while all were down is started once. `check()` is everything that happens; a task calls it in time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server import background
from server.errors import BadRequest, Conflict, NotFound, Unavailable
from server.store.database import BROKEN, Database
from server.store.tables import RunRow, TriggerRow
from server.store.writer import Writer
from server.training.activity import last_live_turn, scored_since
from server.training.learner_process import LearnerProcess
from server.training.runs import UNFINISHED, Runs, new_run, pause_run, resume_run
from server.training.settings import ScheduleSettings
from server.training.triggers import check_trigger, idle_s, next_time, read_trigger, why
from server.training.windows import Windows
from upturn.wire import EpisodesTrigger, RunConfig, RunView, ScheduleView, Trigger, TriggerCreate, TriggerView

log = logging.getLogger("upturn.schedule")
LOOK_S = 60.0  # Longest pause between two looks: other servers and late rewards change what is due.
PAUSE_S = 1.0  # Shortest: episodes may end in crowds, and are counted each time.
WINDOW_CLOSED = "the window has closed"
MAX_TRIGGERS = 100
TRIGGER_CHARS = 100  # What a run's row holds.


@dataclass(frozen=True, slots=True)
class Activity:
    """What was counted before a decision, so that the writer has not to count."""

    scored: dict[str, tuple[float | None, int]]
    """By trigger: newly scored episodes, and the firing after which they were counted."""
    last_live_at: float | None


class Schedule:
    """All triggers, and the task that looks at them."""

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
        self._windows = Windows(settings.windows)
        self._counting = False
        """Whether any trigger counts episodes."""
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Write the triggers of the settings into the database, and begin to look.

        Raises:
            BadRequest: one of them starts a run that this server cannot serve.
        """
        for trigger in self._settings.triggers.values():
            self._runs.check(self._run_of(trigger))
        with contextlib.suppress(sa.exc.IntegrityError):  # Another server that starts now has written the same.
            await self._writer.write(self._take_settings)
        self._task = asyncio.create_task(self._look())

    async def close(self) -> None:
        """Stop looking."""
        await background.end(self._task)

    def wake(self) -> None:
        """Something happened that a trigger may wait for."""
        self._wake.set()

    def episode_scored(self, _episode_id: str) -> None:
        """An episode has ended, or has got a reward: look soon, where a trigger counts episodes."""
        if self._counting:
            self.wake()

    async def request(self, config: RunConfig, trigger: str) -> RunView:
        """Queue a run now, whatever the windows are, and wake the learner."""
        run = await self._runs.create(config, trigger)
        self._wake_learner()
        return run

    async def resume(self, run_id: str) -> RunView:
        """Let a paused run go on, and wake the learner."""
        run = await self._runs.resume(run_id)
        self._wake_learner()
        return run

    async def add(self, request: TriggerCreate) -> TriggerView:
        """Set a trigger.

        Raises:
            BadRequest: it can never start a run.
            Conflict: there is one of this name, or there are too many.
        """
        try:
            check_trigger(request.trigger)
        except ValueError as error:
            raise BadRequest(str(error), param="trigger", code="bad_trigger") from error
        self._runs.check(self._run_of(request.trigger))

        def insert(session: Session) -> None:
            if session.get(TriggerRow, request.name) is not None:
                raise Conflict(f"there is a trigger {request.name!r}", param="name", code="trigger_exists")
            if (session.scalar(sa.select(sa.func.count()).select_from(TriggerRow)) or 0) >= MAX_TRIGGERS:
                raise Conflict(f"there are {MAX_TRIGGERS} triggers already", code="too_many_triggers")
            session.add(_new_row(request.name, "api", request.trigger, self.clock()))

        await self._writer.write(insert)
        self.wake()
        return next(view for view in (await self.view()).triggers if view.name == request.name)

    async def remove(self, name: str) -> None:
        """Remove a trigger that was set by API.

        Raises:
            NotFound: there is none of this name.
            Conflict: it stands in the settings.
        """

        def delete(session: Session) -> None:
            row = session.get(TriggerRow, name)
            if row is None:
                raise NotFound(f"no trigger {name!r}", code="trigger_not_found")
            if row.source == "settings":
                raise Conflict(f"the trigger {name!r} stands in the settings", code="trigger_of_settings")
            session.delete(row)

        await self._writer.write(delete)

    async def view(self) -> ScheduleView:
        """Return all triggers, and what each waits for."""
        return await asyncio.to_thread(self._view)

    async def check(self) -> float:
        """Start, pause or resume what is due; return how many seconds nothing more can be due by time alone."""
        now = self.clock()
        activity = await asyncio.to_thread(self._count)
        self._counting = bool(activity.scored)
        changed, next_at = await self._writer.write(lambda session: self._decide(session, now, activity))
        if changed:
            self._wake_learner()
        times = [at for at in (next_at, self._windows.next_change(now)) if at is not None]
        return min(LOOK_S, max(0.0, min(times) - now)) if times else LOOK_S

    async def _look(self) -> None:
        while True:
            wait_s = LOOK_S
            try:
                wait_s = await self.check()
            except (*BROKEN, Unavailable) as error:
                log.warning("the schedule could not be read and is looked at again: %s", error)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), max(PAUSE_S, wait_s))
                await asyncio.sleep(PAUSE_S)
            self._wake.clear()

    def _run_of(self, trigger: Trigger) -> RunConfig:
        config = trigger.run or self._settings.run
        if config is None:
            raise BadRequest(
                "this server has no configured run (schedule.run): send one with the trigger", param="trigger.run"
            )
        return config

    def _take_settings(self, session: Session) -> None:
        """Make the rows those of the settings; a trigger that is the same as before goes on where it stood."""
        now = self.clock()
        for row in session.scalars(sa.select(TriggerRow).where(TriggerRow.source == "settings")):
            if row.name not in self._settings.triggers:
                session.delete(row)
        for name, trigger in self._settings.triggers.items():
            fresh, known = _new_row(name, "settings", trigger, now), session.get(TriggerRow, name)
            if known is None or known.source != "settings" or known.rule != fresh.rule:
                session.merge(fresh)

    def _count(self) -> Activity:
        with self._database.read() as session:
            rows = session.scalars(sa.select(TriggerRow)).all()
            rules = {row.name: (row, read_trigger(row.rule)) for row in rows}
            idle = any(idle_s(trigger) is not None for _, trigger in rules.values())
            return Activity(
                {
                    name: (row.fired_at, scored_since(session, row.fired_at, trigger.count))
                    for name, (row, trigger) in rules.items()
                    if isinstance(trigger, EpisodesTrigger)
                },
                last_live_turn(session) if idle else None,
            )

    def _decide(self, session: Session, now: float, activity: Activity) -> tuple[bool, float | None]:
        """Note what is due and act on it; return whether a learner has something to do, and the next time.

        The rows stay locked until the commit: of several servers one decides, and the others see what it did.
        """
        rows = session.scalars(sa.select(TriggerRow).order_by(TriggerRow.name).with_for_update()).all()
        for row in rows:
            _note(row, now, activity)
        changed = self._keep_to_windows(session, now)
        waiting = sorted((row for row in rows if row.due_since is not None), key=lambda row: row.due_since or 0.0)
        if waiting and self._windows.open_at(now) and _unfinished(session) is None:
            self._fire(session, waiting, now)
            changed = True
        return changed, min((row.next_at for row in rows if row.next_at is not None), default=None)

    def _keep_to_windows(self, session: Session, now: float) -> bool:
        """Pause what runs where a window has closed, and resume it where one has opened; return whether one resumed."""
        resumed = False
        for run in session.scalars(sa.select(RunRow).where(RunRow.state.in_(UNFINISHED)).with_for_update()):
            if run.state == "paused" and run.reason == WINDOW_CLOSED and self._windows.open_at(now):
                resume_run(run, now)
                resumed = True
            elif (
                run.state != "paused"
                and self._settings.pause_outside_windows
                and self._windows.closed_since(run.resumed_at or run.created_at, now)
            ):
                pause_run(run, WINDOW_CLOSED, now)
                log.info("run %s is paused: %s", run.id, WINDOW_CLOSED)
        return resumed

    def _fire(self, session: Session, waiting: list[TriggerRow], now: float) -> None:
        """Start one run for the trigger that has waited longest, and for all that would start the same."""
        config = self._run_of(read_trigger(waiting[0].rule))
        same = [row for row in waiting if self._run_of(read_trigger(row.rule)) == config]
        reasons = [f"{row.name}: {why(read_trigger(row.rule))}" for row in same]
        also = f" (+{len(same) - 1})" if len(same) > 1 else ""
        run = new_run(config, reasons[0][: TRIGGER_CHARS - len(also)] + also, now)
        session.add(run)
        session.flush()
        log.info("run %s starts, by %s", run.id, "; ".join(reasons))
        for row in same:
            waited = now - (row.due_since or now)
            row.fired_why = why(read_trigger(row.rule)) + (f", waited {waited:.0f} s" if waited >= LOOK_S else "")
            row.due_since, row.fired_at, row.fired_run = None, now, run.id

    def _view(self) -> ScheduleView:
        now = self.clock()
        activity = self._count()
        with self._database.read() as session:
            run = _unfinished(session)
            rows = session.scalars(sa.select(TriggerRow).order_by(TriggerRow.name)).all()
        opens_at = self._windows.opens_at(now)
        held = [f"run {run.id} to end ({run.state})"] if run is not None else []
        held += ["the window to open"] if opens_at is not None else []
        return ScheduleView(
            windows=self._windows.texts,
            window_open=opens_at is None,
            window_opens_at=opens_at,
            unfinished_run=None if run is None else run.id,
            triggers=[_trigger_view(row, held, activity, now) for row in rows],
        )

    def _wake_learner(self) -> None:
        if self._learner is not None:
            self._learner.wake()


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


def _unfinished(session: Session) -> RunRow | None:
    return session.scalar(sa.select(RunRow).where(RunRow.state.in_(UNFINISHED)).order_by(RunRow.id).limit(1))


def _note(row: TriggerRow, now: float, activity: Activity) -> None:
    """Note whether a trigger is due; one that waits already stays one."""
    trigger = read_trigger(row.rule)
    if row.next_at is not None and row.next_at <= now:
        row.due_since, row.next_at = row.due_since or row.next_at, next_time(trigger, row.created_at, now)
    if isinstance(trigger, EpisodesTrigger):
        counted_after, count = activity.scored.get(row.name, (None, 0))
        if count >= trigger.count and counted_after == row.fired_at:
            row.due_since = row.due_since or now
    elif (pause_s := idle_s(trigger)) is not None:
        due = row.fired_at is None or _quiet_since(row, activity) > row.fired_at
        due = due and now - _quiet_since(row, activity) >= pause_s
        row.due_since = (row.due_since or now) if due else None


def _quiet_since(row: TriggerRow, activity: Activity) -> float:
    return max(row.created_at, activity.last_live_at or 0.0)


def _trigger_view(row: TriggerRow, held: list[str], activity: Activity, now: float) -> TriggerView:
    trigger = read_trigger(row.rule)
    if row.due_since is not None:
        waits_for = " and ".join(held) or "the next look at the schedule"
    elif isinstance(trigger, EpisodesTrigger):
        waits_for = f"{activity.scored.get(row.name, (None, 0))[1]} of {trigger.count} newly scored episodes"
    elif (pause_s := idle_s(trigger)) is not None:
        quiet_s = now - _quiet_since(row, activity)
        waits_for = (
            f"no live turn for {pause_s:.0f} s; now {quiet_s:.0f} s"
            if quiet_s < pause_s
            else "the next live turn: this pause has had its run"
        )
    else:
        waits_for = "its time"
    return TriggerView(
        name=row.name,
        source=row.source,  # type: ignore[arg-type]
        trigger=trigger,
        next_at=row.next_at,
        due_since=row.due_since,
        waits_for=waits_for,
        fired_at=row.fired_at,
        fired_run=row.fired_run,
        fired_why=row.fired_why,
    )
