"""Cron expressions on the wall clock of a time zone. No tables, no state.

APScheduler reads the fields and walks the calendar. It does so in UTC, where every day has 24 hours; here each time of
its calendar becomes a moment in the zone. (Its own walk through a local calendar skips hour 0 after clocks change.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo

from apscheduler.triggers.cron import CronTrigger as Fields

DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
EVERY_HOUR = frozenset({"*", "*/1", "0-23", "0-23/1"})
_NEARBY = timedelta(hours=25)
"""Further away than any change of clocks reaches: the largest, of a whole day, moved a date line."""
_DAY = f"[0-7]|{'|'.join(DAYS)}"
_WEEKDAYS = re.compile(rf"(?:(\*)|({_DAY})(?:-({_DAY}))?)(?:/([1-7]))?", re.IGNORECASE)


class Cron:
    """The times of one expression in one time zone.

    When clocks are set forward, a skipped time comes as much later as the clocks moved: 02:30 at 03:30. When they are
    set back, a time that occurs twice counts once, at its first occurrence, unless the hour field is `*`.
    """

    def __init__(self, expression: str, zone: tzinfo) -> None:
        """Parse an expression.

        Raises:
            ValueError: it is invalid.
        """
        fields = expression.split()
        if len(fields) != 5:
            raise ValueError(f"the cron expression {expression!r} needs five fields: minute hour day month weekday")
        try:
            self._fields = Fields.from_crontab(" ".join([*fields[:4], _weekdays(fields[4])]), UTC)
        except ValueError as error:
            raise ValueError(f"invalid cron expression {expression!r}: {error}") from error
        self._zone = zone
        self._every_hour = fields[1] in EVERY_HOUR

    def next(self, after: float) -> float | None:
        """Return the first time after a moment, both in Unix seconds; None if there is none before the year 10000."""
        now = datetime.fromtimestamp(after, self._zone)
        # A time of the calendar before `now` can still come: one that is skipped, or one that is about to repeat.
        begin = now.replace(tzinfo=None) - self._moved(now, -1) - self._moved(now, 1)
        best: float | None = None
        end = begin
        for time in self._calendar(begin):
            if best is not None and time >= end:
                break
            for moment in self._moments(time):
                if moment > after and (best is None or moment < best):
                    best, fire = moment, datetime.fromtimestamp(moment, self._zone)
                    # Later times of the calendar can come earlier: unskipped ones, and first occurrences.
                    end = fire.replace(tzinfo=None) + self._moved(fire, -1)
        return best

    def _calendar(self, begin: datetime) -> Iterator[datetime]:
        """Yield the expression's dates and times, without a zone, from `begin` on."""
        time = self._fields.get_next_fire_time(None, begin.replace(tzinfo=UTC))
        while time is not None:
            yield time.replace(tzinfo=None)
            time = self._fields.get_next_fire_time(None, time + timedelta(microseconds=1))

    def _moments(self, time: datetime) -> list[float]:
        """Return the moments of a time of the calendar, in Unix seconds."""
        first, second = (time.replace(tzinfo=self._zone, fold=fold).timestamp() for fold in (0, 1))
        repeats = self._every_hour and first < second  # A skipped time has first > second.
        return [first, second] if repeats else [first]

    def _moved(self, at: datetime, direction: int) -> timedelta:
        """Return by how much clocks change near a moment, before (-1) or after (1) it."""
        other = (at.astimezone(UTC) + direction * _NEARBY).astimezone(self._zone)
        return abs((other.utcoffset() or timedelta()) - (at.utcoffset() or timedelta()))


def _weekdays(field: str) -> str:
    """Translate a weekday field to a list of names: numbers count from Sunday in cron, but from Monday in APScheduler.

    Raises:
        ValueError: the field is invalid.
    """
    if field == "*":
        return field
    names = []
    for part in field.split(","):
        match = _WEEKDAYS.fullmatch(part)
        if match is None:
            raise ValueError(f"{part!r} is no weekday: write 0-7, sun-sat, a range, or a list")
        star, first, last, step = match.groups()
        begin = 0 if star else _day(first)
        end = 6 if star else _day(last) if last else 7 if step else begin
        if end == 0 < begin:  # A week may end on Sunday, as in `sat-sun`.
            end = 7
        if begin > end:
            raise ValueError(f"{part!r} ends before it begins")
        names += [DAYS[day % 7] for day in range(begin, end + 1, int(step or 1))]
    return ",".join(names)


def _day(text: str) -> int:
    return int(text) if text.isdigit() else DAYS.index(text.lower())
