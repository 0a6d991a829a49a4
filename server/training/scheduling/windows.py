"""Windows of the day in which triggers may start runs, such as `01:00-06:00 Europe/Berlin`.

A window follows the wall clock of its time zone, and may cross midnight. When clocks are set back, both occurrences of
the repeated hour are inside; when they are set forward, a skipped time is as long after midnight as on any other day.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

PATTERN = re.compile(r"([01]\d|2[0-3]):([0-5]\d)\s*-\s*([01]\d|2[0-3]):([0-5]\d)\s+(\S{1,64})")


def zone(name: str) -> ZoneInfo:
    """Return a time zone by its IANA name.

    Raises:
        ValueError: the time zone does not exist.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # OSError: a folder of time zones, such as `Europe`.
        raise ValueError(f"time zone {name!r} does not exist: names look like Europe/Berlin or UTC") from error


@dataclass(frozen=True, slots=True)
class Window:
    """A daily window, from `start` up to but excluding `end`, on the wall clock of `zone`."""

    start: time
    end: time
    zone: ZoneInfo

    @classmethod
    def parse(cls, text: str) -> Window:
        """Parse a window.

        Raises:
            ValueError: the text is not a window.
        """
        match = PATTERN.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"{text!r} is not a window: write it like 01:00-06:00 Europe/Berlin")
        hours = [int(part) for part in match.groups()[:4]]
        start, end = time(hours[0], hours[1]), time(hours[2], hours[3])
        if start == end:
            raise ValueError(f"the window {text!r} is empty: it ends when it starts")
        return cls(start, end, zone(match[5]))

    def spans(self, now: float) -> Iterator[tuple[float, float]]:
        """Yield (opens, closes) in Unix seconds for the days around a time, in order."""
        today = datetime.fromtimestamp(now, self.zone).date()
        for offset in range(-2, 4):
            day = today + timedelta(days=offset)
            opens = self._at(day, self.start, fold=0)
            closes = self._at(day + timedelta(days=self.end <= self.start), self.end, fold=1)
            if opens >= closes:  # It begins in the hour skipped when clocks are set forward, and ends soon after it.
                end = datetime.combine(day, self.end) - datetime.combine(day, self.start)
                closes = opens + end.total_seconds()
            yield opens, closes

    def _at(self, day: date, at: time, fold: int) -> float:
        wall = datetime.combine(day, at, self.zone)
        missing = wall.astimezone(UTC).astimezone(self.zone).replace(tzinfo=None) != wall.replace(tzinfo=None)
        return wall.replace(fold=0 if missing else fold).timestamp()


class Windows:
    """A set of windows. Without any, it is always open."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = list(texts)
        self._windows = [Window.parse(text) for text in texts]

    def open_at(self, now: float) -> bool:
        """Return whether any window is open."""
        return not self._windows or any(opens <= now < closes for opens, closes in self._spans(now))

    def opens_at(self, now: float) -> float | None:
        """Return when the next window opens; None if one is open."""
        return None if self.open_at(now) else min(opens for opens, _ in self._spans(now) if opens > now)

    def closes_at(self, now: float) -> float | None:
        """Return when all windows that are open at a time have closed; None if none is open, or without windows."""
        closes = [closes for opens, closes in self._spans(now) if opens <= now < closes]
        return max(closes, default=None)

    def closed_since(self, since: float, now: float) -> bool:
        """Return whether all windows are closed now, and one has closed after `since`."""
        return not self.open_at(now) and any(since < closes <= now for _, closes in self._spans(now))

    def next_change(self, now: float) -> float | None:
        """Return when any window opens or closes next; None without windows."""
        return min((at for span in self._spans(now) for at in span if at > now), default=None)

    def _spans(self, now: float) -> list[tuple[float, float]]:
        return [span for window in self._windows for span in window.spans(now)]
