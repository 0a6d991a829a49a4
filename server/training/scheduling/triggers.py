"""Triggers as pure functions: validation, the next time, and a description. No tables.

APScheduler's triggers compute the times. `schedule.py` and `dispatch.py` keep the due triggers in the database.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo

from apscheduler.triggers.cron import CronTrigger as CronTimes
from apscheduler.triggers.interval import IntervalTrigger as IntervalTimes
from pydantic import TypeAdapter

from server.training.scheduling.windows import zone
from upturn.wire.schedule import CronTrigger, EpisodesTrigger, IdleTrigger, IntervalTrigger, Trigger

DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")
_NUMBERS = re.compile(r"(?:(\*)|([0-7])(?:-([0-7]))?)(?:/([1-7]))?")
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

    When clocks are set back, a time of day that occurs twice is due once, unless the expression's hour is a `*`.

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
        return _next_fire(times, after, UTC).timestamp()  # type: ignore[union-attr]
    if not isinstance(trigger, CronTrigger):
        return None
    timezone, fields = zone(trigger.timezone), trigger.cron.split()
    if len(fields) != 5:
        raise ValueError(f"the cron expression {trigger.cron!r} needs five fields: minute hour day month weekday")
    try:
        times = CronTimes.from_crontab(" ".join([*fields[:4], _weekdays(fields[4])]), timezone)
    except ValueError as error:
        raise ValueError(f"invalid cron expression {trigger.cron!r}: {error}") from error
    fire = _next_fire(times, after, timezone)
    while fire is not None and fire.fold and "*" not in fields[1]:
        fire = _next_fire(times, fire.timestamp(), timezone)
    return None if fire is None else fire.timestamp()


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


def _next_fire(times: CronTimes | IntervalTimes, after: float, timezone: tzinfo) -> datetime | None:
    # Add the microsecond before the time zone: adding to a local time would lose which of two equal hours it is in.
    fire: datetime | None = times.get_next_fire_time(None, datetime.fromtimestamp(after + 1e-6, timezone))
    return fire


def _weekdays(field: str) -> str:
    """Translate a weekday field to names: numbers count from Sunday in cron, but from Monday in APScheduler."""
    if field == "*":
        return field
    names = []
    for part in field.split(","):
        match = _NUMBERS.fullmatch(part)
        if match is None:  # Names such as mon-fri, or something that APScheduler refuses.
            names.append(part)
            continue
        star, first, last, step = match.groups()
        begin, end = (0, 6) if star else (int(first), int(last or (7 if step else first)))
        if begin > end:
            raise ValueError(f"{part!r} ends before it begins")
        names += [DAYS[day] for day in range(begin, end + 1, int(step or 1))]
    return ",".join(names)
