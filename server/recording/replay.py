"""Finds recorded answers for a request that is sent again: an SDK's retry, or a repeated idempotency key.

A retry must not become a second turn: its answer exists and was lost in transit. The caller decides whether a request
is a retry; the same request sent twice on purpose is two turns. Blocks on the database, so do not call it from the
event loop.
"""

from __future__ import annotations

import time

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.errors import Conflict
from server.recording.conversation import DELETED
from server.recording.tokens import unpack_ids, unpack_logprobs
from server.recording.trainable import NO_TRAIN
from server.recording.turn import Answer
from server.store.database import Database, id_at
from server.store.tables import EpisodeRow, NodeRow, TurnRow

RETRY_S = 600.0
"""Time after the answer within which the same request counts as a retry, in seconds. OpenAI's SDKs give up sooner."""
LONGEST_ANSWER_S = 3600.0
"""Time that an answer takes at most, for the search; a turn's id contains its beginning."""
MOST_TURNS = 256
"""Newest turns that are compared; a request has at most 128."""


def find_recorded(
    database: Database, *, digest: str, key: str | None, owner: str, episode_id: str | None, prompts: bool = False
) -> list[Answer]:
    """Return the recorded answers to a request, in order; empty if the request is new.

    Args:
        database: the database to search.
        digest: SHA-256 of the request.
        key: its idempotency key. Without one, the digest identifies the request, for `RETRY_S`.
        owner: SHA-256 of the caller's key; it limits the search if the request names no episode.
        episode_id: the episode that the request names.
        prompts: also return the ids of the prompts.

    Raises:
        Conflict: the idempotency key was used with a different request.
    """
    with database.read() as session:
        if key is not None:
            turns = session.scalars(with_key(key, owner, episode_id)).all()
            if any(turn.digest != digest for turn in turns):
                raise key_conflict(key)
        else:
            turns = session.scalars(with_digest(digest, owner, episode_id, time.time())).all()
        shown = (t for t in turns if t.finish_reason != "abort" and t.untrainable_reason != DELETED)
        turns = sorted(shown, key=lambda turn: turn.id)
        newest = [turn for turn in turns if turn.episode_id == turns[-1].episode_id]
        by_choice = {turn.choice: turn for turn in newest}  # Ordered by time, so the last turn of each choice wins.
        return [_answer(session, by_choice[choice], prompts) for choice in sorted(by_choice)]


def with_key(key: str, owner: str, episode_id: str | None) -> sa.Select[TurnRow]:
    """Return the query of a caller's turns with an idempotency key."""
    return _of_caller(owner, episode_id).where(TurnRow.idempotency_key == key)


def with_digest(digest: str, owner: str, episode_id: str | None, now: float) -> sa.Select[TurnRow]:
    """Return the query of a caller's newest turns with a digest, which a retry at the time `now` may repeat."""
    recent = TurnRow.created_at > now - RETRY_S, TurnRow.id > id_at("turn", now - RETRY_S - LONGEST_ANSWER_S)
    query = _of_caller(owner, episode_id).where(TurnRow.digest == digest, *recent)
    return query.order_by(TurnRow.digest.desc(), TurnRow.id.desc()).limit(MOST_TURNS)


def _of_caller(owner: str, episode_id: str | None) -> sa.Select[TurnRow]:
    mine = EpisodeRow.owner_hash == owner if episode_id is None else EpisodeRow.id == episode_id
    return sa.select(TurnRow).join(EpisodeRow, EpisodeRow.id == TurnRow.episode_id).where(mine)


def key_conflict(key: str) -> Conflict:
    """Return the error for an idempotency key that another request has."""
    return Conflict(f"idempotency key {key!r} was used with another request", code="idempotency_conflict")


def _answer(session: Session, turn: TurnRow, prompts: bool) -> Answer:
    nodes = session.scalars(
        sa.select(NodeRow).where(NodeRow.turn_id == turn.id, NodeRow.sampled).order_by(NodeRow.id)
    ).all()
    trainable = session.scalar(sa.select(EpisodeRow.trainable).where(EpisodeRow.id == turn.episode_id))
    return Answer(
        turn_id=turn.id,
        episode_id=turn.episode_id,
        message=turn.answer,
        finish_reason=turn.finish_reason,
        prompt_tokens=turn.prompt_tokens,
        token_ids=[i for node in nodes for i in unpack_ids(node.token_ids)],
        logprobs=[x for node in nodes for x in unpack_logprobs(node.logprobs or b"")],
        top_logprobs=None,
        version=turn.policy_version or 0,
        first_version=next((node.policy_version for node in nodes if node.policy_version is not None), 0),
        untrainable=turn.untrainable_reason or (None if trainable else NO_TRAIN),
        prompt_ids=_prompt_ids(session, turn) if prompts else [],
    )


def _prompt_ids(session: Session, turn: TurnRow) -> list[int]:
    """Return [T] the ids of a turn's prompt: its own new ones, and the recorded ones before them."""
    nodes = {
        row.id: row
        for row in session.execute(
            sa.select(NodeRow.id, NodeRow.parent_id, NodeRow.turn_id, NodeRow.sampled, NodeRow.token_ids).where(
                NodeRow.episode_id == turn.episode_id
            )
        )
    }
    at = next((row for row in nodes.values() if row.turn_id == turn.id and not row.sampled), None)
    parts: list[list[int]] = []
    while at is not None:
        parts.append(unpack_ids(at.token_ids))
        at = None if at.parent_id is None else nodes[at.parent_id]
    return [token for part in reversed(parts) for token in part]
