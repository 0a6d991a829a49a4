"""How values are shown: times, durations, shares, large numbers. Templates use these as filters."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup

NOTHING = "–"
"""Stands for a value that is not known."""
_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


def when(at: float | None, style: str = "short") -> str | Markup:
    """Return a time: in UTC here, and in the viewer's zone once the page's script has run.

    Args:
        at: Unix seconds.
        style: `short` (day and minute), `long` (with seconds), `clock` (minute only), or `ago` (how long ago, which
            only the script shows: a page that is rendered again is the same as long as nothing has happened).
    """
    if at is None or not math.isfinite(at):
        return NOTHING
    try:
        moment = datetime.fromtimestamp(at, UTC)
    except (OverflowError, OSError, ValueError):
        return NOTHING
    spelled = {
        "clock": f"{moment:%H:%M} UTC",
        "long": f"{moment:%Y-%m-%d %H:%M:%S} UTC",
    }.get(style, f"{moment:%b} {moment.day}, {moment:%H:%M} UTC")
    return Markup('<time datetime="{}" data-style="{}">{}</time>').format(
        moment.isoformat(timespec="seconds").replace("+00:00", "Z"), style, spelled
    )


def duration(seconds: float | None) -> str:
    """Return a duration in its largest unit."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    for unit_s, name in _UNITS:
        if abs(seconds) >= unit_s:
            value = seconds / unit_s
            return f"{value:.1f} {name}" if value < 10 and name != "min" else f"{value:.0f} {name}"
    if abs(seconds) < 0.1:
        return f"{1000 * seconds:.0f} ms"
    return f"{seconds:.0f} s" if abs(seconds) >= 10 else f"{seconds:.1f} s"


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with at most `digits` significant digits; large ones with separators."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if float(value).is_integer() or abs(value) >= 10**digits:
        return f"{value:,.0f}"
    if 0 < abs(value) < 1e-3:
        return f"{value:.{digits - 1}g}"
    return f"{value:.{digits}g}"


def short(value: float | None) -> str:
    """Return a large number with its unit: 12,345 is 12.3 k."""
    if value is None or not math.isfinite(value):
        return NOTHING
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):.3g} {unit}"
    return number(value)


def percent(share: float | None, digits: int = 0) -> str:
    """Return a share in percent."""
    return NOTHING if share is None or not math.isfinite(share) else f"{100 * share:.{digits}f} %"


def signed(value: float | None, digits: int = 1) -> str:
    """Return a difference of shares in percentage points, with its sign."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{100 * value:+.{digits}f} %".replace("-", "−")


def in_bytes(size: float | None) -> str:
    """Return a size in bytes with its unit."""
    if size is None or not math.isfinite(size):
        return NOTHING
    for scale, unit in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if abs(size) >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size:.0f} B"


def plural(count: int, one: str, many: str = "") -> str:
    """Return a count with its noun."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def brief(identifier: str | None, characters: int = 12) -> str:
    """Return the beginning of an id."""
    if not identifier:
        return NOTHING
    return identifier if len(identifier) <= characters else f"{identifier[:characters]}…"


def words(name: str) -> str:
    """Return a name in code as words: `reward_rise` is `reward rise`."""
    return name.replace("_", " ")


FILTERS: dict[str, Callable[..., Any]] = {
    "when": when,
    "duration": duration,
    "number": number,
    "short": short,
    "percent": percent,
    "signed": signed,
    "in_bytes": in_bytes,
    "plural": plural,
    "brief": brief,
    "words": words,
}
