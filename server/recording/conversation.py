"""The conversation that led to a recorded turn, put together again: a turn's row holds only what was new in it.

Reads the database: not for the event loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from server.store.database import Database
from server.store.tables import EpisodeRow, NodeRow, TurnRow


@dataclass(frozen=True, slots=True)
class Past:
    """A turn and what was said before it."""

    turn: TurnRow
    messages: list[dict[str, Any]]
    """All messages of its request; its answer comes after them."""


def read_conversation(database: Database, turn_id: str, *, owner: str, episode_id: str | None) -> Past | None:
    """Return a turn with its conversation; None where there is no such turn, or it is none of the caller's.

    Args:
        database: where it is.
        turn_id: the turn.
        owner: SHA-256 of the caller's key, which may have opened the episode.
        episode_id: the episode that the caller names.
    """
    mine = sa.or_(EpisodeRow.owner_hash == owner, EpisodeRow.id == episode_id)
    with database.read() as session:
        turn = session.scalar(
            sa.select(TurnRow).join(EpisodeRow, EpisodeRow.id == TurnRow.episode_id).where(TurnRow.id == turn_id, mine)
        )
        if turn is None:
            return None
        turns = {
            row.id: row for row in session.scalars(sa.select(TurnRow).where(TurnRow.episode_id == turn.episode_id))
        }
        nodes = session.execute(
            sa.select(NodeRow.id, NodeRow.turn_id, NodeRow.parent_id)
            .where(NodeRow.episode_id == turn.episode_id)
            .order_by(NodeRow.id.desc())
        ).all()
    owners = {node.id: node.turn_id for node in nodes}
    parents = {node.turn_id: node.parent_id for node in nodes}  # The last one seen is a turn's first: its prompt.
    path = [turn]
    while (before := parents[path[-1].id]) is not None:
        path.append(turns[owners[before]])
    messages: list[dict[str, Any]] = []
    for at in reversed(path):
        messages += [*at.messages, at.answer]
    return Past(turn, messages[:-1])
