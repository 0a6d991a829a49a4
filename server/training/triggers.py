"""What a trigger means: whether it is right, when it is due next, and how it is told. It reads no clock and no table.

Times come from APScheduler's triggers; when they are due is kept in the database by `schedule.py`.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo

from apscheduler.triggers.cron import CronTrigger as CronTimes
from apscheduler.triggers.interval import IntervalTrigger as IntervalTimes
from pydantic import TypeAdapter

from server.training.windows import zone
from upturn.wire.schedule import CronTrigger, EpisodesTrigger, IdleTrigger, IntervalTrigger, Trigger

DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")
_NUMBERS = re.compile(r"(?:(\*)|([0-7])(?:-([0-7]))?)(?:/([1-7]))?")
_TRIGGER: TypeAdapter[Trigger] = TypeAdapter(Trigger)


def read_trigger(rule: object) -> Trigger:
    """Return a trigger as it is stored."""
    return _TRIGGER.validate_python(rule)


def check_trigger(trigger: Trigger) -> None:
    """Refuse what can never be due.

    Raises:
        ValueError: with what is wrong.
    """
    if isinstance(trigger, CronTrigger) and next_time(trigger, 0.0, datetime.now(UTC).timestamp()) is None:
        raise ValueError(f"the cron expression {trigger.cron!r} never comes")


def next_time(trigger: Trigger, set_at: float, after: float) -> float | None:
    """Return the first time after `after`; None for a trigger that waits for events.

    A time of the day that a clock put back brings twice is due once, unless the hour is a `*`.
    """
    if isinstance(trigger, IntervalTrigger):
        start = datetime.fromtimestamp(set_at, UTC)
        times = IntervalTimes(
            seconds=trigger.every_s, start_date=start + timedelta(seconds=trigger.every_s), timezone=UTC
        )
        return _following(times, after, UTC).timestamp()  # type: ignore[union-attr]
    if not isinstance(trigger, CronTrigger):
        return None
    where, fields = zone(trigger.timezone), trigger.cron.split()
    if len(fields) != 5:
        raise ValueError(f"the cron expression {trigger.cron!r} needs five fields: minute hour day month weekday")
    try:
        times = CronTimes.from_crontab(" ".join([*fields[:4], _weekdays(fields[4])]), where)
    except ValueError as error:
        raise ValueError(f"the cron expression {trigger.cron!r}: {error}") from error
    found = _following(times, after, where)
    while found is not None and found.fold and "*" not in fields[1]:
        found = _following(times, found.timestamp(), where)
    return None if found is None else found.timestamp()


def why(trigger: Trigger) -> str:
    """Say in a few words when a trigger starts a run."""
    if isinstance(trigger, CronTrigger):
        return f"cron {trigger.cron} {trigger.timezone}"
    if isinstance(trigger, IntervalTrigger):
        return f"every {trigger.every_s:g} s"
    if isinstance(trigger, EpisodesTrigger):
        return f"{trigger.count} newly scored episodes"
    return f"no live turn for {trigger.minutes:g} min"


def idle_s(trigger: Trigger) -> float | None:
    """Return how long a pause an idle trigger waits for; None of another."""
    return trigger.minutes * 60 if isinstance(trigger, IdleTrigger) else None


def _following(times: CronTimes | IntervalTimes, after: float, where: tzinfo) -> datetime | None:
    # The microsecond is added before the zone is: adding to a local time forgets which of two equal hours it is in.
    found: datetime | None = times.get_next_fire_time(None, datetime.fromtimestamp(after + 1e-6, where))
    return found


def _weekdays(field: str) -> str:
    """Return a weekday field with names: cron counts from Sunday, APScheduler from Monday."""
    if field == "*":
        return field
    names = []
    for part in field.split(","):
        found = _NUMBERS.fullmatch(part)
        if found is None:  # Names such as mon-fri, or what APScheduler refuses.
            names.append(part)
            continue
        star, first, last, step = found.groups()
        begin, end = (0, 6) if star else (int(first), int(last or (7 if step else first)))
        if begin > end:
            raise ValueError(f"{part!r} ends before it begins")
        names += [DAYS[day] for day in range(begin, end + 1, int(step or 1))]
    return ",".join(names)
