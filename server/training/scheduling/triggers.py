"""Triggers as pure functions: validation, the next time, and a description. No tables.

`cron.py` and APScheduler's intervals compute the times. `schedule.py` and `dispatch.py` keep the due triggers in the
database.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from apscheduler.triggers.interval import IntervalTrigger as IntervalTimes
from pydantic import TypeAdapter

from server.training.scheduling.cron import Cron
from server.training.scheduling.windows import zone
from upturn.wire.schedule import CronTrigger, EpisodesTrigger, IdleTrigger, IntervalTrigger, Trigger

_TRIGGER: TypeAdapter[Trigger] = TypeAdapter(Trigger)


def read_trigger(rule: object) -> Trigger:
    """Parse a stored trigger."""
    return _TRIGGER.validate_python(rule)


def check_trigger(trigger: Trigger) -> None:
    """Refuse a trigger that can never be due.

    Raises:
        ValueError: the cron expression or its time zone is invalid, or it never fires.
    """
    if isinstance(trigger, CronTrigger) and next_time(trigger, 0.0, datetime.now(UTC).timestamp()) is None:
        raise ValueError(f"the cron expression {trigger.cron!r} never fires")


def next_time(trigger: Trigger, set_at: float, after: float) -> float | None:
    """Return a trigger's first time after `after`; None if it waits for events, or never fires again.

    Args:
        trigger: any trigger.
        set_at: when it was set; intervals count from there. Unix seconds.
        after: Unix seconds.

    Raises:
        ValueError: the cron expression or its time zone is invalid.
    """
    if isinstance(trigger, IntervalTrigger):
        start = datetime.fromtimestamp(set_at, UTC)
        times = IntervalTimes(
            seconds=trigger.every_s, start_date=start + timedelta(seconds=trigger.every_s), timezone=UTC
        )
        # Later by a microsecond: APScheduler's next time may be the given one.
        fire: datetime = times.get_next_fire_time(None, datetime.fromtimestamp(after + 1e-6, UTC))
        return fire.timestamp()
    if not isinstance(trigger, CronTrigger):
        return None
    return Cron(trigger.cron, zone(trigger.timezone)).next(after)


def describe(trigger: Trigger) -> str:
    """Return a short description of when a trigger starts a run."""
    if isinstance(trigger, CronTrigger):
        return f"cron {trigger.cron} {trigger.timezone}"
    if isinstance(trigger, IntervalTrigger):
        return f"every {trigger.every_s:g} s"
    if isinstance(trigger, EpisodesTrigger):
        return f"{trigger.count} newly scored episodes"
    return f"no live turn for {trigger.minutes:g} min"


def idle_s(trigger: Trigger) -> float | None:
    """Return the pause that an idle trigger waits for, in seconds; None for any other trigger."""
    return trigger.minutes * 60 if isinstance(trigger, IdleTrigger) else None
