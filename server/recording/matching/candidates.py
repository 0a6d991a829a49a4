"""Reads the episodes to which a conversation may belong. Every query reads few rows, however many episodes there are.

Blocks on the database, so do not call it from the event loop.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import cast

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.recording.matching.talk import Talk
from server.store.database import Database
from server.store.tables import ConversationEndRow, EpisodeRow, TurnRow

ENDED, FOLLOWED, UNSURE, FREE = range(4)
"""What continues the end of a conversation: nothing, since it ended; a turn; perhaps a turn; nothing yet."""
DEPTHS = 200
"""Beginnings of a conversation that one query looks for."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """The recorded end of a conversation."""

    turn_id: str
    episode_id: str
    state: int
    ambiguous: bool


@dataclass(slots=True)
class Found:
    """What the record knows of a conversation."""

    named: tuple[str, bool] | None = None
    """The episode of the client's own id, and whether it is open."""
    returned: Candidate | None = None
    """The newest recorded turn that the conversation names, unless a later part of it is recorded."""
    successors: tuple[str, ...] = ()
    """Open episodes that continue the episode of that turn, the newest first; at most two."""
    ends: list[Candidate] = field(default_factory=list)
    """The ends of its longest recorded beginning, the best first, if it reaches beyond that turn."""
    position: int = -1
    """Position of the last answer that is recorded."""


def look_up(database: Database, talk: Talk, most: int) -> Found:
    """Look a conversation up, by what identifies it first.

    Args:
        database: the database to search.
        talk: the conversation.
        most: maximum number of ends to return.
    """
    found = Found()
    with database.read() as session:
        if talk.key is not None:
            found.named = _named(session, talk.key)
        if found.named is not None:
            return found
        if talk.returned:
            found.returned = _returned(session, talk)
        if found.returned is not None:
            found.position = talk.returned[found.returned.turn_id]
            if found.returned.state == ENDED:
                found.successors = tuple(session.scalars(successors(found.returned.episode_id)))
        if talk.key is None:
            position, kind = _longest(session, talk, found.position)
            if position >= 0:
                found.position = position
                value = (talk.exact if kind == "exact" else talk.loose)[position]
                rows = session.connection().execute(_ENDS[kind], {"hash": value, "most": most})
                found.ends = [Candidate(*row) for row in rows]
    return found


def with_key(key: str) -> sa.Select[str, str]:
    """Return the query of the newest episode with the client's id of a conversation."""
    return (
        sa.select(EpisodeRow.id, EpisodeRow.status)
        .where(EpisodeRow.conversation_key == key)
        .order_by(EpisodeRow.id.desc())
        .limit(1)
    )


def successors(episode_id: str) -> sa.Select[str]:
    """Return the query of the open episodes that continue an ended one."""
    return (
        sa.select(EpisodeRow.id)
        .where(EpisodeRow.continues_id == episode_id, EpisodeRow.status == "open")
        .order_by(EpisodeRow.id.desc())
        .limit(2)
    )


def of_turns(turn_ids: Collection[str], owner: str) -> sa.Select[str, str, str, bool]:
    """Return the query of the turns with some ids in a key's live episodes."""
    return (
        sa.select(TurnRow.id, TurnRow.episode_id, EpisodeRow.status, ConversationEndRow.ambiguous)
        .join(EpisodeRow, EpisodeRow.id == TurnRow.episode_id)
        .outerjoin(ConversationEndRow, ConversationEndRow.turn_id == TurnRow.id)
        .where(TurnRow.id.in_(turn_ids), EpisodeRow.owner_hash == owner, EpisodeRow.environment.is_(None))
    )


def ends_of(kind: str) -> sa.Select[str, str, int, bool]:
    """Return the query of the `most` ends with a `hash`: those that nothing continues first, of equal ones the newest.

    Args:
        kind: `exact` or `loose`.
    """
    return (
        sa.select(_END.c.turn_id, _END.c.episode_id, _END.c.state, _END.c.ambiguous)
        .where(_END.c[kind] == sa.bindparam("hash"))
        .order_by(_END.c.state.desc(), _END.c.turn_id.desc())
        .limit(sa.bindparam("most", type_=sa.Integer))
    )


_END = cast(sa.Table, ConversationEndRow.__table__)
_ENDS = {kind: ends_of(kind) for kind in ("exact", "loose")}
"""Built once: building a query costs more than executing it."""


@cache
def recorded(count: int) -> sa.TextClause:
    """Return the query that says which of some pairs of hashes, `e0` and `l0` and so on, are recorded."""
    pairs = ", ".join(f"(:e{i}, :l{i})" for i in range(count))
    return sa.text(
        f"with asked (exact, loose) as (values {pairs}) select asked.exact, "
        "exists (select 1 from conversation_end where conversation_end.exact = asked.exact), "
        "exists (select 1 from conversation_end where conversation_end.loose = asked.loose) from asked"
    )


def _named(session: Session, key: str) -> tuple[str, bool] | None:
    row = session.execute(with_key(key)).first()
    return None if row is None else (row.id, row.status == "open")


def _returned(session: Session, talk: Talk) -> Candidate | None:
    query = of_turns(talk.returned, talk.owner)
    if talk.quoted:
        query = query.add_columns(TurnRow.answer, ConversationEndRow.loose)
    rows = {row.id: row for row in session.execute(query)}
    for turn_id, position in talk.returned.items():
        if (row := rows.get(turn_id)) is not None:
            if turn_id in talk.quoted and row.loose not in talk.ends_with(position, row.answer):
                continue  # What was before the text is not what was before the turn: it quotes another conversation.
            state = FOLLOWED if row.status == "open" else ENDED
            return Candidate(turn_id, row.episode_id, state, bool(row.ambiguous))
    return None


def _longest(session: Session, talk: Talk, after: int) -> tuple[int, str]:
    """Return the position of the last answer after another one that is recorded, and by which hash; -1 if none is."""
    for positions in _chunks([position for position in talk.answers if position > after]):
        pairs = {talk.exact[position]: position for position in positions}
        values = {f"e{i}": talk.exact[position] for i, position in enumerate(positions)}
        values |= {f"l{i}": talk.loose[position] for i, position in enumerate(positions)}
        rows = session.connection().execute(recorded(len(positions)), values)
        known = {pairs[row[0]]: "exact" if row[1] else "loose" for row in rows if row[1] or row[2]}
        if known:
            return max(known), known[max(known)]
    return -1, ""


def _chunks(answers: list[int]) -> Iterator[list[int]]:
    """Yield positions from the last to the first: first the last alone, where a conversation usually continues."""
    backwards, size = answers[::-1], 1
    while backwards:
        yield backwards[:size]
        backwards, size = backwards[size:], DEPTHS
