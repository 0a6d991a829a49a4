"""Records rewards that callers give to an episode, late or in parts; a caller's key makes it idempotent."""

from __future__ import annotations

import time

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.errors import Conflict, NotFound
from server.recording.matching.returned import turn_of
from server.store.database import Database, new_id
from server.store.tables import EpisodeRow, RewardRow, TurnRow
from upturn.wire import RewardRequest, RewardView

MOST_REWARDS = 1000
"""Rewards of one episode from outside, one for each of many turns; default chosen by this project."""
MOST_SOURCES = 16
"""Different sources of one episode. With the caps of their rules, they bound its reward."""


def record_reward(session: Session, episode_id: str, request: RewardRequest) -> RewardView:
    """Insert a reward, or return the one that was recorded under the same key.

    Raises:
        NotFound: no such episode or turn.
        Conflict: the idempotency key was used with other content, the episode failed, or it has too many rewards.
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
    _check_room(session, episode_id, request.source)
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


def episode_of(database: Database, name: str) -> str:
    """Return the episode that an id names: its own, or that of a turn, completion, response, message or tool call.

    Blocks on the database.

    Raises:
        NotFound: there is no such episode or turn.
    """
    turn_id = turn_of(name)
    with database.read() as session:
        if turn_id is None:
            found = session.scalar(sa.select(EpisodeRow.id).where(EpisodeRow.id == name.replace("\0", "")))
        else:
            found = session.scalar(sa.select(TurnRow.episode_id).where(TurnRow.id == turn_id))
    if found is None:
        raise NotFound(f"no episode {name!r}", code="episode_not_found")
    return found


def reward_view(row: RewardRow) -> RewardView:
    """Return a reward as a message."""
    return RewardView(id=row.id, value=row.value, source=row.source, turn=row.turn_index, created_at=row.created_at)


def _check_room(session: Session, episode_id: str, source: str) -> None:
    given = sa.select(RewardRow.source, sa.func.count().label("times")).where(RewardRow.episode_id == episode_id)
    counts = {row.source: row.times for row in session.execute(given.group_by(RewardRow.source))}
    if sum(counts.values()) >= MOST_REWARDS:
        raise Conflict(
            f"episode {episode_id} has {MOST_REWARDS} rewards, the most there can be", code="too_many_rewards"
        )
    if source not in counts and len(counts) >= MOST_SOURCES:
        raise Conflict(
            f"episode {episode_id} has rewards of {MOST_SOURCES} sources, the most there can be: use one of them",
            param="source",
            code="too_many_rewards",
        )


def _has_turn(session: Session, episode_id: str, index: int) -> bool:
    query = sa.select(TurnRow.id).where(TurnRow.episode_id == episode_id, TurnRow.index == index)
    return session.scalar(query) is not None
