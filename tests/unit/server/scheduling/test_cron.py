"""Cron expressions, compared with a minute-by-minute walk through a year in several time zones."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from server.training.scheduling.cron import Cron

YEAR = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
ZONES = [
    "UTC",
    "Europe/Berlin",
    "Europe/Helsinki",
    "America/New_York",
    "America/Santiago",
    "Australia/Sydney",
    "Australia/Lord_Howe",
    "Asia/Kolkata",
    "Asia/Beirut",
]
MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DENSE = ["0 * * * *", "30 * * * *", "0,30 1-3 * * *", "0 */2 * * *", "0 5/2 * * *"]
SPARSE = [
    "0 0 1 * *",
    "0 0 * * 1",
    "30 0 * * MON-FRI",
    "30 2 * * *",
    "30 23 * * 0",
    "0 0 13 * 5",
    "0 3 29 2 *",
    "0 12 31 * *",
    "0 1 * mar,OCT,11 sat-sun",
]


def values(field: str, low: int, high: int, names: list[str], first: int = 0) -> set[int]:
    """Read a cron field in the most literal way."""
    found: set[int] = set()
    for part in field.lower().split(","):
        span, _, step = part.partition("/")
        begin, _, end = span.partition("-")
        numbers = [names.index(text) + first if text in names else text for text in (begin, end)]
        if begin == "*":
            start, stop = low, high
        else:
            start = int(numbers[0])
            stop = int(numbers[1]) if end else high if step else start
            stop = 7 if names is DAYS and end == "sun" else stop
        found |= set(range(start, stop + 1, int(step or 1)))
    return found


def walk(expression: str, zone: str, begin: datetime, end: datetime, minutes: int) -> Iterator[datetime]:
    """Yield every time of an expression by looking at each moment of a period, `minutes` apart."""
    minute, hour, day, month, weekday = expression.split()
    wanted = (
        values(minute, 0, 59, []),
        values(hour, 0, 23, []),
        values(day, 1, 31, []),
        values(month, 1, 12, MONTHS, 1),
        {one % 7 for one in values(weekday, 0, 7, DAYS)},
    )

    def matches(wall: datetime) -> bool:
        parts = (wall.minute, wall.hour, wall.day, wall.month, wall.isoweekday() % 7)
        return all(part in one for part, one in zip(parts, wanted, strict=True))

    found: set[datetime] = set()
    step, at = timedelta(minutes=minutes), begin
    tz, before = ZoneInfo(zone), begin.astimezone(ZoneInfo(zone))
    while at < end:
        here = at.astimezone(tz)
        if matches(here) and (not here.fold or hour == "*"):
            found.add(at)
        skipped = (here.utcoffset() or timedelta()) - (before.utcoffset() or timedelta())
        for passed in range(0, int(skipped / step)):  # The clock jumps over these times: they come that much later.
            if matches(here.replace(tzinfo=None) - skipped + passed * step):
                found.add(at + passed * step)
        at, before = at + step, here
    yield from sorted(moment for moment in found if begin < moment < end)


def fires(expression: str, zone: str, begin: datetime, end: datetime) -> Iterator[datetime]:
    """Yield every time between two moments, each computed from the one before."""
    cron, at = Cron(expression, ZoneInfo(zone)), cron_next(expression, zone, begin)
    while at is not None and at < end.timestamp():
        yield datetime.fromtimestamp(at, UTC)
        at = cron.next(at)


def cron_next(expression: str, zone: str, after: datetime) -> float | None:
    return Cron(expression, ZoneInfo(zone)).next(after.timestamp())


def changes(zone: str) -> Iterator[datetime]:
    """Yield the moments of the year at which the clocks of a zone change."""
    at, tz = YEAR[0], ZoneInfo(zone)
    while at < YEAR[1]:
        later = at + timedelta(minutes=30)
        if at.astimezone(tz).utcoffset() != later.astimezone(tz).utcoffset():
            yield later
        at = later


@pytest.mark.parametrize("zone", ZONES)
def test_every_time_of_a_year_is_found_once_whatever_the_clocks_do(zone: str) -> None:
    for expression in SPARSE:
        assert list(fires(expression, zone, *YEAR)) == list(walk(expression, zone, *YEAR, 30)), expression
    for change in changes(zone):
        period = change - timedelta(days=2), change + timedelta(days=2)
        for expression in DENSE:
            assert list(fires(expression, zone, *period)) == list(walk(expression, zone, *period, 30)), expression


@pytest.mark.parametrize("zone", ZONES)
def test_every_minute_around_a_change_of_clocks_is_found_once(zone: str) -> None:
    for change in changes(zone):
        period = change - timedelta(hours=3), change + timedelta(hours=3)
        for expression in ("*/2 * * * *", "5/7 * * * *", "*/15 1-2 * * *", "59 1,2 * * *", "10 0 * * *"):
            assert list(fires(expression, zone, *period)) == list(walk(expression, zone, *period, 1)), expression


@pytest.mark.parametrize("zone", [zone for zone in ZONES if list(changes(zone))])
def test_the_next_time_is_right_from_any_moment_around_a_change_of_clocks(zone: str) -> None:
    for change in changes(zone):
        period = change - timedelta(hours=4), change + timedelta(hours=60)
        for expression in ("*/20 * * * *", "10,50 1-2 * * *", "30 0 * * *"):
            cron, due = Cron(expression, ZoneInfo(zone)), list(walk(expression, zone, *period, 1))
            for minutes in range(-120, 120, 11):
                after = change + timedelta(minutes=minutes, seconds=minutes % 3)
                found = cron.next(after.timestamp())
                assert found == next(one for one in due if one > after).timestamp(), (expression, after)


@pytest.mark.parametrize(
    ("expression", "zone", "after", "right"),
    [
        ("0 0 1 * *", "Europe/Berlin", "2026-03-01T12:00+01:00", "2026-04-01T00:00+02:00"),
        ("0 0 * * 1", "Europe/Berlin", "2026-03-23T12:00+01:00", "2026-03-30T00:00+02:00"),
        ("30 0 * * 1-5", "Europe/Berlin", "2026-03-27T12:00+01:00", "2026-03-30T00:30+02:00"),
        ("0 0 * * 1", "Europe/Helsinki", "2026-03-28T12:00+02:00", "2026-03-30T00:00+03:00"),
        ("0 0 * * 1", "America/New_York", "2026-03-07T12:00-05:00", "2026-03-09T00:00-04:00"),
        ("0 0 * * 1", "Australia/Sydney", "2026-10-03T12:00+10:00", "2026-10-05T00:00+11:00"),
        ("0 0 * * 1", "Australia/Lord_Howe", "2026-10-03T12:00+10:30", "2026-10-05T00:00+11:00"),
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00+01:00", "2026-03-29T03:30+02:00"),
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00+10:30", "2026-10-04T02:45+11:00"),
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00+02:00", "2026-10-25T02:30+02:00"),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"),
        ("30 * * * *", "Europe/Berlin", "2026-10-25T02:30+02:00", "2026-10-25T02:30+01:00"),
        ("0 12 29 2 *", "UTC", "2026-01-01T00:00+00:00", "2028-02-29T12:00+00:00"),
        ("0 0 30 12 *", "Pacific/Apia", "2011-12-29T12:00-10:00", "2011-12-31T00:00+14:00"),
    ],
)
def test_a_time_follows_the_wall_clock(expression: str, zone: str, after: str, right: str) -> None:
    found = cron_next(expression, zone, datetime.fromisoformat(after))
    assert found is not None
    assert datetime.fromtimestamp(found, UTC) == datetime.fromisoformat(right)


@pytest.mark.parametrize("same", [("0 3 * * 5/2", "0 3 * * FRI,sun"), ("0 3 * * sun-tue", "0 3 * * 0-2")])
def test_weekdays_may_be_names_numbers_ranges_and_steps(same: tuple[str, str]) -> None:
    first, second = (list(fires(one, "UTC", *YEAR)) for one in same)
    assert first == second != []


@pytest.mark.parametrize(
    ("field", "days"),
    [
        ("5/2", "fri sun"),
        ("1/2", "mon wed fri sun"),
        ("0/3", "sun wed sat"),
        ("6/1", "sat sun"),
        ("2/7", "tue"),
        ("7", "sun"),
        ("0", "sun"),
        ("sat-sun", "sat sun"),
        ("5-7", "fri sat sun"),
        ("0-6", "sun mon tue wed thu fri sat"),
        ("*/2", "sun tue thu sat"),
        ("*/7", "sun"),
        ("mon,WED", "mon wed"),
    ],
)
def test_a_weekday_field_comes_on_exactly_its_days(field: str, days: str) -> None:
    sunday = datetime(2026, 3, 1, tzinfo=UTC)
    week = sunday - timedelta(seconds=1), sunday + timedelta(days=7)
    assert sorted(DAYS[one.isoweekday()] for one in fires(f"0 3 * * {field}", "UTC", *week)) == sorted(days.split())


@pytest.mark.parametrize(
    "wrong",
    [
        *("0 3 * *", "0 3 * * * *", "", "60 * * * *", "0 24 * * *", "0 3 0 * *", "0 3 * 13 *", "0 3 * * 8"),
        *("0 3 * * fri-mon", "0 3 * * mo", "*/0 * * * *", "0 3 * * 1,", "-1 * * * *", "5-1 * * * *", "a * * * *"),
        *("0 3 ? * *", "0 3 * * sun,fri-mon"),
    ],
)
def test_an_invalid_expression_is_refused_by_name(wrong: str) -> None:
    with pytest.raises(ValueError, match="cron expression"):
        Cron(wrong, UTC)


@pytest.mark.parametrize("never", ["0 0 30 2 *", "0 0 31 4,6,9,11 *", "0 0 31 feb *"])
def test_an_expression_without_any_date_never_comes(never: str) -> None:
    assert cron_next(never, "Europe/Berlin", YEAR[0]) is None
