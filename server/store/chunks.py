"""Lists of ids in queries: PostgreSQL takes 65,535 parameters in one, and SQLite 32,766 or more."""

from __future__ import annotations

from collections.abc import Collection, Iterator

CHUNK = 1000
"""Ids in one query."""


def chunks(ids: Collection[str]) -> Iterator[list[str]]:
    """Yield ids in lists that fit a query; nothing if there are none."""
    ordered = list(ids)
    for first in range(0, len(ordered), CHUNK):
        yield ordered[first : first + CHUNK]
