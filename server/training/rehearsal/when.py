"""Rehearses the schedule: when each trigger starts its run, and what would hold it back."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.errors import UpturnError
from server.store.tables import RunRow
from server.training.data.live_episodes import plan_of
from server.training.rehearsal.report import Finding, failed, ok, warning
from server.training.run_states import undecided
from server.training.runs import BY_REQUEST
from server.training.scheduling.dispatch import unfinished_run
from server.training.scheduling.schedule import Schedule
from server.training.scheduling.settings import ScheduleSettings
from server.training.scheduling.triggers import check_trigger, describe
from server.training.scheduling.windows import zone
from upturn.wire import CronTrigger, EpisodesTrigger, RunConfig, TriggerView

TONIGHT_S = 24 * 3600.0
"""A trigger that does not start its run within this time does not start it tonight."""


def trigger_finding(view: TriggerView, schedule: Schedule, settings: ScheduleSettings, now: float) -> Finding:
    """Return when a trigger starts its run.

    Args:
        view: the trigger, as the schedule shows it.
        schedule: knows the windows and the runs.
        settings: whether runs are paused outside windows.
        now: Unix seconds.
    """
    try:
        check_trigger(view.trigger)
        config = schedule.run_of(view.trigger)
    except ValueError as error:
        return failed(f"{error}: it never starts a run; set another time")
    except UpturnError as error:
        return failed(error.message)
    if view.trigger.kind not in ("cron", "interval"):
        return _of_events(view, config)
    due = view.due_since if view.due_since is not None else view.next_at
    if due is None:
        return failed(f"{describe(view.trigger)} has no next time: it never starts a run; set another time")
    place = zone(view.trigger.timezone) if isinstance(view.trigger, CronTrigger) else UTC
    due = max(due, now)
    starts = schedule.windows.opens_at(due) or due
    text = f"starts {_time(starts, place)}"
    if starts - now > TONIGHT_S:
        return warning(f"{text}, not within the next 24 hours: change its time if it should start tonight")
    if starts > due:
        return warning(
            f"is due {_time(due, place)}, when no window is open, and {text}: move the trigger or the window"
        )
    closes, minutes = schedule.windows.closes_at(starts), config.budget.minutes
    if closes is not None and not settings.pause_outside_windows and minutes is None:
        return warning(f"{text}, and may continue when its window has closed: set budget.minutes")
    if closes is not None and settings.pause_outside_windows:
        left = (closes - starts) / 60
        if minutes is None or minutes > left:
            wants = "has no budget of minutes" if minutes is None else f"may take {minutes:g} min"
            return warning(
                f"{text}, {left:.0f} min before its window closes, and {wants}: what is left is paused until the next "
                "window opens; start it earlier, or lower budget.minutes"
            )
    return ok(text)


def blocker_findings(session: Session) -> Iterator[Finding]:
    """Yield what keeps every trigger from starting a run."""
    run = unfinished_run(session)
    if run is not None and run.state == "paused" and run.reason == BY_REQUEST:
        yield failed(
            f"run {run.id} was paused by request, and no trigger starts a run before it ends: resume or cancel it"
        )
    elif run is not None:
        yield warning(
            f"run {run.id} is {run.state}, and no trigger starts a run before it ends: let it end, or cancel it"
        )
    if (due := session.scalar(undecided().limit(1))) is not None:
        yield warning(f"the gate has not decided on run {due.id}, and no run begins before that: wait for it")
    canary = session.scalar(sa.select(RunRow.id).where(RunRow.gate == "canary").limit(1))
    if canary is not None:
        yield warning(
            f"the canary of run {canary} is undecided, and no run begins before that: promote it or roll it back, or "
            "wait for it"
        )


def _of_events(view: TriggerView, config: RunConfig) -> Finding:
    """Return what a trigger still waits for that has no time."""
    text, plan = f"waits for {view.waits_for}", plan_of(config)
    if isinstance(view.trigger, EpisodesTrigger) and config.play is None and plan is not None:
        most = config.steps * plan.limit
        if most < view.trigger.count:
            return warning(f"{text}, and its run takes at most {most} of them: raise steps or live.limit")
    return ok(text)


def _time(at: float, place: object) -> str:
    return datetime.fromtimestamp(at, place).strftime("%a %Y-%m-%d %H:%M %Z")  # type: ignore[arg-type]
