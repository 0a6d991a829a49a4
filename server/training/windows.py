"""Windows of the day in which triggers may start runs, such as `01:00-06:00 Europe/Berlin`.

A window follows the wall clock of its time zone, over midnight too. Where the clock is put back, an hour that comes
twice is inside as a whole; where it is put forward, a missing time is as long after midnight as on any other day.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

FORM = re.compile(r"([01]\d|2[0-3]):([0-5]\d)\s*-\s*([01]\d|2[0-3]):([0-5]\d)\s+(\S{1,64})")


def zone(name: str) -> ZoneInfo:
    """Return a time zone by name.

    Raises:
        ValueError: there is no such zone.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # OSError: a folder of zones, such as `Europe`.
        raise ValueError(f"no time zone {name!r}: names are such as Europe/Berlin or UTC") from error


@dataclass(frozen=True, slots=True)
class Window:
    """One window."""

    start: time
    end: time
    zone: ZoneInfo

    @classmethod
    def parse(cls, text: str) -> Window:
        """Read a window.

        Raises:
            ValueError: it is none.
        """
        found = FORM.fullmatch(text.strip())
        if found is None:
            raise ValueError(f"{text!r} is no window: write it like 01:00-06:00 Europe/Berlin")
        hours = [int(part) for part in found.groups()[:4]]
        start, end = time(hours[0], hours[1]), time(hours[2], hours[3])
        if start == end:
            raise ValueError(f"the window {text!r} ends when it starts")
        return cls(start, end, zone(found[5]))

    def spans(self, now: float) -> Iterator[tuple[float, float]]:
        """Yield the window's openings and closings of the days around a time, in order."""
        today = datetime.fromtimestamp(now, self.zone).date()
        for offset in range(-2, 4):
            day = today + timedelta(days=offset)
            opens = self._at(day, self.start, fold=0)
            closes = self._at(day + timedelta(days=self.end <= self.start), self.end, fold=1)
            if opens < closes:  # Else it lies in the hour that a clock put forward leaves out.
                yield opens, closes

    def _at(self, day: date, at: time, fold: int) -> float:
        wall = datetime.combine(day, at, self.zone)
        missing = wall.astimezone(UTC).astimezone(self.zone).replace(tzinfo=None) != wall.replace(tzinfo=None)
        return wall.replace(fold=0 if missing else fold).timestamp()


class Windows:
    """All windows; without any, it is always open."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = list(texts)
        self._windows = [Window.parse(text) for text in texts]

    def open_at(self, now: float) -> bool:
        """Whether any window is open."""
        return not self._windows or any(opens <= now < closes for opens, closes in self._spans(now))

    def opens_at(self, now: float) -> float | None:
        """Return the next opening; None where it is open."""
        return None if self.open_at(now) else min(opens for opens, _ in self._spans(now) if opens > now)

    def closed_since(self, since: float, now: float) -> bool:
        """Whether it is closed now, and has closed after `since`."""
        return not self.open_at(now) and any(since < closes <= now for _, closes in self._spans(now))

    def next_change(self, now: float) -> float | None:
        """Return when any window opens or closes next; None where there is none."""
        return min((at for span in self._spans(now) for at in span if at > now), default=None)

    def _spans(self, now: float) -> list[tuple[float, float]]:
        return [span for window in self._windows for span in window.spans(now)]
