"""Finds episodes in the index, the newest first. Blocks on the index.

The rarest condition leads: the words of a text, the version that answered, or a reason. Its episodes come in order from
its own table, and the others are checked in batches, so that a page ends as soon as it is full.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from server.recording.reading.index_file import PARTS, number_at, number_of
from server.recording.reading.words import phrase_of
from server.store.chunks import chunks

SEARCHED = 25_000
"""Rows that one search looks at; the next page continues there."""
BATCH = 500
LONGEST_RESET_S = 3600.0
"""An environment's episode gets its id before it is reset, and opens after that; longest time between the two."""
ANY = "any"
"""Stands for every reason."""
LAST = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Conditions:
    """Conditions that the index and the record both know; None, or no status, allows every value."""

    statuses: Sequence[str] = ()
    environment: str | None = None
    task: str | None = None
    play: str | None = None
    live: bool | None = None
    """Whether the server did not play them."""
    success: bool | None = None
    version: int | None = None
    """Version that sampled the end of an answer."""
    reward_from: float | None = None
    reward_to: float | None = None
    untrainable: str | None = None
    """Why a turn cannot be trained on, or `any`."""
    text: str | None = None
    """Words of a message or an answer, in this order."""
    opened_from: float | None = None
    """Unix seconds."""
    opened_before: float | None = None


@dataclass(frozen=True, slots=True)
class Wanted(Conditions):
    """What the index searches for."""

    owner: Sequence[str] | None = None
    """SHA-256 of the API keys that opened them."""
    ids: Collection[str] | None = None
    """The only episodes that may be found."""


@dataclass(frozen=True, slots=True)
class Found:
    """A part of the answer."""

    ids: list[str]
    next: str | None
    """The last id that was checked, if there are more."""


def search(index: sqlite3.Connection, wanted: Wanted, *, after: str | None, limit: int) -> Found:
    """Return up to `limit` episodes that come after an id, and where the search ended."""
    before = LAST if after is None else _number(index, after)
    if wanted.opened_before is not None:
        before = min(before, number_at(wanted.opened_before + 1))
    since = 0 if wanted.opened_from is None else number_at(wanted.opened_from - LONGEST_RESET_S)
    ids: list[str] = []
    looked_at = 0
    for numbers in _leading(index, wanted, since, before):
        looked_at += len(numbers)
        for number, episode_id in _meeting(index, wanted, numbers):
            if wanted.ids is not None and episode_id not in wanted.ids:
                continue
            ids.append(episode_id)
            if len(ids) == limit:
                return Found(ids, None if number == numbers[-1] and len(numbers) < BATCH else episode_id)
        if looked_at >= SEARCHED:
            return Found(ids, _id(index, numbers[-1]))
    return Found(ids, None)


def _leading(index: sqlite3.Connection, wanted: Wanted, since: int, before: int) -> Iterator[list[int]]:
    """Yield the numbers of the episodes that meet the leading condition, in descending order and in batches."""
    between = {"since": since, "before": before}
    cursor: Iterable[tuple[int]]
    if wanted.text is not None:
        query = "SELECT rowid FROM words WHERE words MATCH :phrase AND rowid >= :since AND rowid < :before"
        cursor = index.execute(query + " ORDER BY rowid DESC", between | {"phrase": phrase_of(wanted.text)})
    elif wanted.untrainable not in (None, ANY) or wanted.version is not None:
        column = "version" if wanted.version is not None else "reason"
        more = "" if wanted.version is not None else " AND reason <> ''"
        query = f"SELECT DISTINCT number FROM usage WHERE {column} = :value{more}"
        value = wanted.version if wanted.version is not None else wanted.untrainable
        cursor = index.execute(
            query + " AND number >= :since AND number < :before ORDER BY number DESC", between | {"value": value}
        )
    elif wanted.ids is not None:
        cursor = [(number,) for number in _numbers(index, wanted.ids) if since <= number < before]
    else:
        # One query with the plain conditions costs less than batches.
        conditions, values = _plain(wanted)
        query = " AND ".join(["number >= :since", "number < :before", *conditions])
        cursor = index.execute(f"SELECT number FROM episode WHERE {query} ORDER BY number DESC", between | values)
    numbers: list[int] = []
    for (row,) in cursor:
        number = row - row % PARTS
        if not numbers or number != numbers[-1]:
            if len(numbers) == BATCH:
                yield numbers
                numbers = []
            numbers.append(number)
    if numbers:
        yield numbers


def _meeting(index: sqlite3.Connection, wanted: Wanted, numbers: list[int]) -> list[tuple[int, str]]:
    """Return the episodes among some that meet all conditions, in the same order."""
    conditions, values = _plain(wanted)
    if wanted.version is not None:
        conditions.append("EXISTS (SELECT 1 FROM usage u WHERE u.version = :version AND u.number = episode.number)")
        values["version"] = wanted.version
    if wanted.untrainable is not None:
        which = "u.reason <> ''" if wanted.untrainable == ANY else "u.reason = :reason"
        conditions.append(f"EXISTS (SELECT 1 FROM usage u WHERE u.number = episode.number AND {which})")
        values["reason"] = wanted.untrainable
    listed = f"number IN ({', '.join(map(str, numbers))})"
    query = f"SELECT number, id FROM episode WHERE {' AND '.join([listed, *conditions])} ORDER BY number DESC"
    return index.execute(query, values).fetchall()


def _plain(wanted: Wanted) -> tuple[list[str], dict[str, object]]:
    """Return the conditions on the row of an episode, and their values."""
    conditions: list[str] = []
    values: dict[str, object] = {}

    def add(condition: str, **named: object) -> None:
        conditions.append(condition)
        values.update(named)

    for name, several in (("owner", wanted.owner), ("status", wanted.statuses or None)):
        if several is not None:
            listed = {f"{name}{position}": value for position, value in enumerate(several)}
            add(f"{name} IN ({', '.join(f':{key}' for key in listed)})", **listed)
    for name in ("environment", "task", "play"):
        if (value := getattr(wanted, name)) is not None:
            add(f"{name} = :{name}", **{name: value})
    if wanted.live is not None:
        add("play IS NULL" if wanted.live else "play IS NOT NULL")
    if wanted.success is not None:
        add("success = :success", success=int(wanted.success))
    if wanted.reward_from is not None:
        add("reward >= :reward_from", reward_from=wanted.reward_from)
    if wanted.reward_to is not None:
        add("reward <= :reward_to", reward_to=wanted.reward_to)
    if wanted.opened_from is not None:
        add("opened_at >= :opened_from", opened_from=wanted.opened_from)
    if wanted.opened_before is not None:
        add("opened_at < :opened_before", opened_before=wanted.opened_before)
    return conditions, values


def _numbers(index: sqlite3.Connection, episode_ids: Collection[str]) -> list[int]:
    """Return the numbers of some episodes, in descending order."""
    numbers: list[int] = []
    for ids in chunks(episode_ids):
        query = f"SELECT number FROM episode WHERE id IN ({', '.join('?' * len(ids))})"
        numbers += [number for (number,) in index.execute(query, ids)]
    return sorted(numbers, reverse=True)


def _number(index: sqlite3.Connection, episode_id: str) -> int:
    """Return the number of an episode, or the one that it would have."""
    found = index.execute("SELECT number FROM episode WHERE id = ?", (episode_id,)).fetchone()
    return int(found[0]) if found else number_of(episode_id)


def _id(index: sqlite3.Connection, number: int) -> str | None:
    found = index.execute("SELECT id FROM episode WHERE number <= ? ORDER BY number DESC LIMIT 1", (number,)).fetchone()
    return found[0] if found else None
