"""Answers that were recorded before, for a request that is sent again: an SDK's retry, or an idempotency key.

A retry must not become another turn: the answer was lost on its way, not unsaid. Reads the database: not for the event
loop. The caller decides whether a request is a retry; the same request sent twice on purpose is two turns.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.errors import Conflict
from server.recording.tokens import unpack_ids, unpack_logprobs
from server.store.database import Database
from server.store.tables import EpisodeRow, NodeRow, TurnRow

RETRY_S = 600.0
"""How long after its answer a request may come as a retry; OpenAI's SDKs give up sooner."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A turn as it was answered."""

    turn: TurnRow
    token_ids: list[int]
    """[K] the sampled ids."""
    logprobs: list[float]
    """[K]"""


def find_recorded(
    database: Database, *, digest: str, key: str | None, owner: str, episode_id: str | None
) -> list[Recorded]:
    """Return the turns that answered a request before, one for each of its answers; none where it is new.

    Args:
        database: where they are.
        digest: of the request.
        key: its idempotency key; without one, the request itself says which answers are its own.
        owner: SHA-256 of the caller's key, for a request that names no episode.
        episode_id: the episode that it names.

    Raises:
        Conflict: the idempotency key came with another request.
    """
    mine = EpisodeRow.owner_hash == owner if episode_id is None else EpisodeRow.id == episode_id
    same = (
        TurnRow.idempotency_key == key
        if key is not None
        else sa.and_(TurnRow.digest == digest, TurnRow.created_at > time.time() - RETRY_S)
    )
    query = (
        sa.select(TurnRow)
        .join(EpisodeRow, EpisodeRow.id == TurnRow.episode_id)
        .where(mine, same, TurnRow.finish_reason != "abort")
        .order_by(TurnRow.id)
    )
    with database.read() as session:
        turns = session.scalars(query).all()
        if key is not None and any(turn.digest != digest for turn in turns):
            raise Conflict(f"idempotency key {key!r} was used with another request", code="idempotency_conflict")
        newest = [turn for turn in turns if turn.episode_id == turns[-1].episode_id]
        by_choice = {turn.choice: turn for turn in newest}  # Ordered by time: the last one of each choice stays.
        return [_recorded(session, by_choice[choice]) for choice in sorted(by_choice)]


def _recorded(session: Session, turn: TurnRow) -> Recorded:
    nodes = session.scalars(
        sa.select(NodeRow).where(NodeRow.turn_id == turn.id, NodeRow.sampled).order_by(NodeRow.id)
    ).all()
    return Recorded(
        turn,
        [i for node in nodes for i in unpack_ids(node.token_ids)],
        [x for node in nodes for x in unpack_logprobs(node.logprobs or b"")],
    )
