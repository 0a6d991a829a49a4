"""Records rewards that callers give to an episode, late or in parts; a caller's key makes it idempotent."""

from __future__ import annotations

import time

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.errors import Conflict, NotFound
from server.store.database import new_id
from server.store.tables import EpisodeRow, RewardRow, TurnRow
from upturn.wire import RewardRequest, RewardView


def record_reward(session: Session, episode_id: str, request: RewardRequest) -> RewardView:
    """Insert a reward, or return the one that was recorded under the same key.

    Raises:
        NotFound: no such episode or turn.
        Conflict: the idempotency key was used with other content, or the episode failed.
    """
    episode = session.get(EpisodeRow, episode_id)
    if episode is None:
        raise NotFound(f"no episode {episode_id!r}", code="episode_not_found")
    if episode.status == "error":
        raise Conflict(f"episode {episode_id} failed ({episode.error_class})", code="episode_ended")
    if request.turn is not None and not _has_turn(session, episode_id, request.turn):
        raise NotFound(f"episode {episode_id} has no turn {request.turn}", param="turn", code="turn_not_found")
    known = request.key is not None and session.scalar(
        sa.select(RewardRow).where(RewardRow.episode_id == episode_id, RewardRow.key == request.key)
    )
    if known:
        if (known.value, known.source, known.turn_index) != (request.value, request.source, request.turn):
            raise Conflict(
                f"reward key {request.key!r} was used with other content", param="key", code="idempotency_conflict"
            )
        return reward_view(known)
    row = RewardRow(
        id=new_id("rw"),
        episode_id=episode_id,
        turn_index=request.turn,
        value=request.value,
        source=request.source,
        key=request.key,
        created_at=time.time(),
    )
    session.add(row)
    return reward_view(row)


def reward_view(row: RewardRow) -> RewardView:
    """Return a reward as a message."""
    return RewardView(id=row.id, value=row.value, source=row.source, turn=row.turn_index, created_at=row.created_at)


def _has_turn(session: Session, episode_id: str, index: int) -> bool:
    query = sa.select(TurnRow.id).where(TurnRow.episode_id == episode_id, TurnRow.index == index)
    return session.scalar(query) is not None
