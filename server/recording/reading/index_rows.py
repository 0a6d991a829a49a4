"""What the index holds of an episode, read from the record, and how it is written. Blocks on both databases.

The signature of an episode says in a few figures what is recorded of it: the index is right about an episode if both
have the same.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute, Session

from server.recording.reading.index_file import PARTS, free_number, number_of, time_of
from server.recording.reading.words import BOUNDARY, text_of_turn
from server.rewards.totals import rewards_of
from server.store.tables import EpisodeRow, RewardRow, RewardSourceRow, StepRow, TurnRow

SLOT_S = 300
"""Turns are counted by this many seconds."""
PART_TURNS = 8
"""Turns of one part: a turn that is added writes at most these again, however long its conversation is."""
NO_VERSION = -1
_COLUMNS = (
    EpisodeRow.id,
    EpisodeRow.status,
    EpisodeRow.environment,
    EpisodeRow.task,
    EpisodeRow.play_id,
    EpisodeRow.owner_hash,
    EpisodeRow.policy_version,
    EpisodeRow.success,
    EpisodeRow.opened_at,
    EpisodeRow.closed_at,
)


_TURNS = sa.select(
    TurnRow.index.label("place"),
    TurnRow.created_at,
    TurnRow.policy_version,
    TurnRow.untrainable_reason,
    TurnRow.prompt_tokens,
    TurnRow.completion_tokens,
    TurnRow.messages,
    TurnRow.answer,
).order_by(TurnRow.index)


@dataclass(frozen=True, slots=True)
class Recorded:
    """An episode as it is recorded."""

    row: Any
    signature: str


def recorded(session: Session, condition: sa.ColumnElement[bool], limit: int | None = None) -> list[Recorded]:
    """Return the episodes that meet a condition, the newest first, each with its signature.

    The figures come from indexes: a comparison of all episodes must not read their text.
    """
    query = sa.select(*_COLUMNS).where(condition).order_by(EpisodeRow.id.desc())
    rows = session.execute(query if limit is None else query.limit(limit)).all()
    ids = [row.id for row in rows]
    turns = _grouped(session, TurnRow.episode_id, ids, sa.func.max(TurnRow.index))
    steps = _grouped(session, StepRow.episode_id, ids)
    rewards = _grouped(session, RewardRow.episode_id, ids)
    rules = _rules(session) if rewards else 0
    found = []
    for row in rows:
        given = (*rewards[row.id], rules) if row.id in rewards else ()
        parts = (row.status, row.opened_at, row.closed_at, *turns.get(row.id, ()))
        signature = "|".join(map(str, (*parts, "s", *steps.get(row.id, ()), "r", *given)))
        found.append(Recorded(row, signature))
    return found


def write_episodes(
    session: Session, index: sqlite3.Connection, episodes: Sequence[Recorded], *, anew: bool = False
) -> None:
    """Write what is recorded of some episodes.

    Args:
        session: reads the record.
        index: a transaction of the index.
        episodes: the episodes.
        anew: write all of their turns again, instead of what is new of them.
    """
    rewards = rewards_of(session, [episode.row.id for episode in episodes])
    for episode in episodes:
        _write(session, index, episode, rewards[episode.row.id], anew)


def remove_episodes(index: sqlite3.Connection, episode_ids: Iterable[str]) -> int:
    """Remove episodes and their words; return how many there were."""
    removed = 0
    for episode_id in episode_ids:
        found = index.execute("SELECT number FROM episode WHERE id = ?", (episode_id,)).fetchone()
        if found is not None:
            _remove_parts(index, found[0], 0)
            index.execute("DELETE FROM episode WHERE number = ?", found)
            removed += 1
    return removed


def _write(session: Session, index: sqlite3.Connection, episode: Recorded, reward: float | None, anew: bool) -> None:
    row = episode.row
    known = index.execute("SELECT number, settled FROM episode WHERE id = ?", (row.id,)).fetchone()
    number = free_number(index, number_of(row.id, row.opened_at)) if known is None else known[0]
    settled = 0 if known is None or anew else _still_settled(session, row.id, known[1])
    first = min(settled // PART_TURNS, PARTS - 1)
    turns = session.execute(_TURNS.where(TurnRow.episode_id == row.id, TurnRow.index >= first * PART_TURNS)).all()
    _remove_parts(index, number, first)
    texts: dict[int, list[str]] = defaultdict(list)
    for turn in turns:
        texts[_part(turn)].append(text_of_turn(turn.messages or (), turn.answer))
    words = ((number + part, f" {BOUNDARY} ".join(those)) for part, those in texts.items())
    index.executemany("INSERT INTO words (rowid, text) VALUES (?, ?)", words)
    usage = ((number, *key, *sums) for key, sums in _usage(turns).items())
    index.executemany("INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?)", usage)
    before = first * PART_TURNS
    full = (turns[-1].place + 1) // PART_TURNS * PART_TURNS if turns else before
    whole = before + sum(turn.place < full for turn in turns) == full
    index.execute(
        "INSERT OR REPLACE INTO episode VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            number,
            row.id,
            episode.signature,
            full if whole else before,
            row.status,
            row.environment,
            row.task,
            row.play_id,
            row.owner_hash,
            row.policy_version,
            row.success,
            reward,
            before + len(turns),
            time_of(row.opened_at),
            None if row.closed_at is None else time_of(row.closed_at),
        ),
    )


def _still_settled(session: Session, episode_id: str, settled: int) -> int:
    """Return how many turns are in parts that were full and still are: 0 if there are fewer or more than there were."""
    if settled == 0:
        return 0
    count = sa.select(sa.func.count()).where(TurnRow.episode_id == episode_id, TurnRow.index < settled)
    return settled if session.scalar(count) == settled else 0


def _part(turn: Any) -> int:
    return int(min(max(0, turn.place) // PART_TURNS, PARTS - 1))


def _remove_parts(index: sqlite3.Connection, number: int, first: int) -> None:
    index.execute("DELETE FROM words WHERE rowid >= ? AND rowid < ?", (number + first, number + PARTS))
    index.execute("DELETE FROM usage WHERE number = ? AND part >= ?", (number, first))


def _usage(turns: Sequence[Any]) -> Mapping[tuple[int, int, int, str], tuple[int, int, int]]:
    """Return turns, prompt tokens and tokens of answers by part, time, version and reason."""
    sums: dict[tuple[int, int, int, str], tuple[int, int, int]] = {}
    for turn in turns:
        version = NO_VERSION if turn.policy_version is None else turn.policy_version
        key = (_part(turn), int(time_of(turn.created_at) // SLOT_S), version, turn.untrainable_reason or "")
        count, prompt, answered = sums.get(key, (0, 0, 0))
        sums[key] = (count + 1, prompt + turn.prompt_tokens, answered + turn.completion_tokens)
    return sums


def _rules(session: Session) -> int:
    """Return a figure that changes with the rules of reward sources: rewarded episodes are then written again."""
    query = sa.select(RewardSourceRow.name, RewardSourceRow.weight, RewardSourceRow.cap, RewardSourceRow.blocked)
    return crc32(repr([tuple(row) for row in session.execute(query.order_by(RewardSourceRow.name))]).encode())


def _grouped(
    session: Session, owner: InstrumentedAttribute[str], ids: Sequence[str], *figures: sa.ColumnElement[Any]
) -> dict[str, tuple[Any, ...]]:
    """Return the number of rows of each episode, and further figures; nothing for one without rows."""
    query = sa.select(owner, sa.func.count(), *figures).where(owner.in_(ids)).group_by(owner)
    return {row[0]: tuple(row[1:]) for row in session.execute(query)} if ids else {}
