"""Reconstructs the conversation that led to a recorded turn: a turn's row holds only its new messages.

Blocks on the database, so do not call it from the event loop.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.store.chunks import chunks
from server.store.database import Database
from server.store.tables import EpisodeRow, NodeRow, TurnRow


@dataclass(frozen=True, slots=True)
class Past:
    """A recorded turn and the conversation before it."""

    turn: TurnRow
    messages: list[dict[str, Any]]
    """All messages of its request; the turn's answer follows them."""


DELETED = "deleted"
"""Why the learner must not train on a turn that its caller has deleted, and nobody can read it by its id."""


def read_conversation(database: Database, turn_id: str, *, owner: str, episode_id: str | None) -> Past | None:
    """Return a turn with its conversation, or None if it does not exist or belongs to another caller.

    Args:
        database: the database to read.
        turn_id: the turn.
        owner: SHA-256 of the caller's key; the episodes that it opened are the caller's.
        episode_id: the episode that the caller names; it counts as the caller's too.
    """
    with database.read() as session:
        turn = session.scalar(_shown(owner, episode_id).where(TurnRow.id == turn_id))
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
    parents = {
        node.turn_id: node.parent_id for node in nodes
    }  # In descending order, so a turn's first node (its prompt) wins.
    path = [turn]
    while (before := parents[path[-1].id]) is not None:
        path.append(turns[owners[before]])
    messages: list[dict[str, Any]] = []
    for at in reversed(path):
        messages += [*at.messages, at.answer]
    return Past(turn, messages[:-1])


def read_answers(
    database: Database, turn_ids: Collection[str], *, owner: str, episode_id: str | None
) -> dict[str, dict[str, Any]]:
    """Return the answers of turns by id, without turns that do not exist or belong to another caller.

    Args:
        database: the database to read.
        turn_ids: the turns.
        owner: as for `read_conversation`.
        episode_id: as for `read_conversation`.
    """
    answers: dict[str, dict[str, Any]] = {}
    with database.read() as session:
        for ids in chunks(turn_ids):
            turns = _shown(owner, episode_id).where(TurnRow.id.in_(ids))
            query = turns.with_only_columns(TurnRow.id, TurnRow.answer)
            answers |= {row.id: row.answer for row in session.execute(query)}
    return answers


def hide(session: Session, turn_id: str, owner: str, episode_id: str | None) -> str | None:
    """Hide a turn from `read_conversation` and keep it from training; return its episode, None if it was not shown."""
    found = session.scalar(_shown(owner, episode_id).where(TurnRow.id == turn_id))
    if found is None:
        return None
    found.trainable, found.untrainable_reason = False, DELETED
    return found.episode_id


def _shown(owner: str, episode_id: str | None) -> sa.Select[TurnRow]:
    """Return the query of a caller's turns that are not deleted."""
    mine = sa.or_(EpisodeRow.owner_hash == owner, EpisodeRow.id == episode_id)
    kept = sa.or_(TurnRow.untrainable_reason.is_(None), TurnRow.untrainable_reason != DELETED)
    return sa.select(TurnRow).join(EpisodeRow, EpisodeRow.id == TurnRow.episode_id).where(mine, kept)
