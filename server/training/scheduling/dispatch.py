"""Which runs start, pause and resume now: decided on the rows of triggers and runs, in one transaction.

The rows stay locked until the commit: if several servers share a database, one decides, and the others see its
decision.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.errors import BadRequest
from server.store.tables import RunRow, TriggerRow
from server.training.data.live_episodes import plan_of
from server.training.run_states import UNFINISHED, new_run, pause_run, resume_run
from server.training.scheduling.activity import last_live_turn, scored_since
from server.training.scheduling.settings import ScheduleSettings
from server.training.scheduling.triggers import describe, idle_s, next_time, read_trigger
from server.training.scheduling.windows import Windows
from upturn.wire import EpisodesTrigger, RunConfig, Trigger

log = logging.getLogger("upturn.schedule")
WINDOW_CLOSED = "the window has closed"
"""Reason of a run that a window paused. Stored in rows: never change it."""
TRIGGER_CHARS = 100  # Length of `run.trigger`.
MIN_REPORTED_WAIT_S = 60.0  # A trigger that waited less to start its run does not report it.


@dataclass(frozen=True, slots=True)
class Scored:
    """The newly scored episodes of an episodes trigger."""

    after: float | None
    """The firing after which they were counted."""
    count: int
    needed: int
    """The number with which the trigger is due: its own, or the number that a step of its run needs."""


@dataclass(frozen=True, slots=True)
class Activity:
    """The counts that triggers wait for, read before the decision to keep that work off the writer thread."""

    scored: dict[str, Scored]
    """By episodes trigger."""
    last_live_at: float | None
    """When an agent last got an answer, if an idle trigger needs to know: None too if all have fired since."""


class Dispatcher:
    """Starts a run when a trigger is due and nothing holds it back, and keeps runs to their windows."""

    def __init__(self, settings: ScheduleSettings, resolved: Callable[[RunConfig], RunConfig]) -> None:
        self._settings = settings
        self._resolved = resolved
        self.windows = Windows(settings.windows)

    def run_of(self, trigger: Trigger) -> RunConfig:
        """Return the run that a trigger starts.

        Raises:
            BadRequest: neither the trigger nor the settings configure one.
        """
        config = trigger.run or self._settings.run
        if config is None:
            raise BadRequest(
                "this server has no configured run (schedule.run): send one with the trigger", param="trigger.run"
            )
        return config

    def count(self, session: Session, now: float) -> Activity:
        """Read the counts that the triggers wait for."""
        triggers = {row.name: (row, read_trigger(row.rule)) for row in session.scalars(sa.select(TriggerRow)).all()}
        idle = [
            max(row.created_at, row.fired_at or 0.0)
            for row, trigger in triggers.values()
            if idle_s(trigger) is not None
        ]
        return Activity(
            {
                name: self._scored(session, row, trigger, now)
                for name, (row, trigger) in triggers.items()
                if isinstance(trigger, EpisodesTrigger)
            },
            last_live_turn(session, min(idle)) if idle else None,
        )

    def _scored(self, session: Session, row: TriggerRow, trigger: EpisodesTrigger, now: float) -> Scored:
        config = trigger.run or self._settings.run
        if config is None:
            return Scored(row.fired_at, 0, trigger.count)
        plan = plan_of(config)
        needed = trigger.count if plan is None or config.play is not None else max(trigger.count, plan.fewest)
        return Scored(row.fired_at, scored_since(session, config, row.fired_at, now, needed), needed)

    def dispatch(self, session: Session, now: float, activity: Activity) -> tuple[bool, float | None]:
        """Update which triggers are due, and start, pause or resume runs.

        Returns:
            Whether a learner has new work, and the next time of a cron or interval trigger.
        """
        rows = session.scalars(sa.select(TriggerRow).order_by(TriggerRow.name).with_for_update()).all()
        for row in rows:
            _update_due(row, now, activity)
        work = self._keep_to_windows(session, now)
        waiting = sorted((row for row in rows if row.due_since is not None), key=lambda row: row.due_since or 0.0)
        if waiting and self.windows.open_at(now) and unfinished_run(session) is None:
            self._start_run(session, waiting, now)
            work = True
        return work, min((row.next_at for row in rows if row.next_at is not None), default=None)

    def _keep_to_windows(self, session: Session, now: float) -> bool:
        """Resume runs whose window has opened, and pause runs whose window has closed; return whether one resumed."""
        resumed = False
        for run in session.scalars(sa.select(RunRow).where(RunRow.state.in_(UNFINISHED)).with_for_update()):
            if run.state == "paused" and run.reason == WINDOW_CLOSED and self.windows.open_at(now):
                resume_run(run, now)
                resumed = True
            elif (
                run.state != "paused"
                and self._settings.pause_outside_windows
                and self.windows.closed_since(run.resumed_at or run.created_at, now)
            ):
                pause_run(run, WINDOW_CLOSED, now)
                log.info("run %s is paused: %s", run.id, WINDOW_CLOSED)
        return resumed

    def _start_run(self, session: Session, waiting: list[TriggerRow], now: float) -> None:
        """Start one run for the trigger that has waited longest and for all that would start the same run."""
        config = self.run_of(read_trigger(waiting[0].rule))
        fired = [row for row in waiting if self.run_of(read_trigger(row.rule)) == config]
        reasons = [f"{row.name}: {describe(read_trigger(row.rule))}" for row in fired]
        others = f" (+{len(fired) - 1})" if len(fired) > 1 else ""
        run = new_run(session, self._resolved(config), reasons[0][: TRIGGER_CHARS - len(others)] + others, now)
        session.flush()
        log.info("run %s starts, triggered by %s", run.id, "; ".join(reasons))
        for row in fired:
            waited_s = now - (row.due_since or now)
            waited = f", waited {waited_s:.0f} s" if waited_s >= MIN_REPORTED_WAIT_S else ""
            row.fired_why = describe(read_trigger(row.rule)) + waited
            row.due_since, row.fired_at, row.fired_run = None, now, run.id


def unfinished_run(session: Session) -> RunRow | None:
    """Return the oldest run that has not ended; while there is one, no trigger starts another."""
    return session.scalar(sa.select(RunRow).where(RunRow.state.in_(UNFINISHED)).order_by(RunRow.id).limit(1))


def waits_for(row: TriggerRow, trigger: Trigger, blockers: list[str], activity: Activity, now: float) -> str:
    """Return what must happen before a trigger starts a run; `blockers` hold back triggers that are due."""
    if row.due_since is not None:
        return " and ".join(blockers) or "the next check of the schedule"
    if isinstance(trigger, EpisodesTrigger):
        scored = activity.scored.get(row.name, Scored(None, 0, trigger.count))
        return f"{scored.count} of {scored.needed} newly scored episodes"
    pause_s = idle_s(trigger)
    if pause_s is None:
        return "its time"
    quiet_s = now - _quiet_since(row, activity)
    if quiet_s < pause_s:
        return f"no live turn for {pause_s:.0f} s; now {quiet_s:.0f} s"
    return "the next live turn: this pause has already started a run"


def _update_due(row: TriggerRow, now: float, activity: Activity) -> None:
    """Set since when a trigger is due, if it is. A trigger that misses several times is due once."""
    trigger = read_trigger(row.rule)
    if row.next_at is not None and row.next_at <= now:
        row.due_since, row.next_at = row.due_since or row.next_at, next_time(trigger, row.created_at, now)
    if isinstance(trigger, EpisodesTrigger):
        scored = activity.scored.get(row.name)
        due = scored is not None and scored.count >= scored.needed and scored.after == row.fired_at
        row.due_since = (row.due_since or now) if due else None
    elif (pause_s := idle_s(trigger)) is not None:
        quiet_since = _quiet_since(row, activity)
        due = (row.fired_at is None or quiet_since > row.fired_at) and now - quiet_since >= pause_s
        row.due_since = (row.due_since or now) if due else None


def _quiet_since(row: TriggerRow, activity: Activity) -> float:
    return max(row.created_at, activity.last_live_at or 0.0)
