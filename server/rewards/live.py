"""Rewards of a version's live episodes, in the order in which they became known.

A live episode was opened with an API key on this server: it is neither one of the server's own plays nor imported. It
counts for a version if that version alone answered in it. Its reward is known once its environment has ended or,
without an environment, once it has a reward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from server.rewards.totals import rewards_of
from server.store.tables import EpisodeRow, RewardRow, TurnRow


@dataclass(frozen=True, slots=True)
class Window:
    """Which episodes are read, and in which order."""

    opened_from: float
    """Only episodes opened since this time."""
    known_before: float | None
    """Only rewards known before this time, the newest first; None is all of them, the oldest first."""


def live_rewards(
    session: Session, version: int, limit: int, *, opened_from: float | None = None, known_before: float | None = None
) -> list[float]:
    """Return up to `limit` rewards of a version's live episodes.

    Args:
        session: a database session.
        version: the only version that answered in these episodes.
        limit: maximum number of episodes to read; those without a reward that counts are left out of the result.
        opened_from: without `known_before`: only episodes opened since this time, oldest reward first.
        known_before: only rewards known before this time, newest first.
    """
    window = Window(opened_from or 0.0, known_before)
    known = [
        (row[0] or 0.0, row[1])
        for query in (with_reward(version, limit, window), with_ended_environment(version, limit, window))
        for row in session.execute(query)
    ]
    known.sort(reverse=known_before is not None)
    ids = [episode_id for _, episode_id in known[:limit]]
    rewards = rewards_of(session, ids)
    return [reward for episode_id in ids if (reward := rewards[episode_id]) is not None]


def with_reward(version: int, limit: int, window: Window) -> sa.Select[float, str]:
    """Return the query of a version's live episodes without an environment, each with the time of its first reward.

    It walks along the rewards, not the episodes, in the order of the result, and stops at the limit.
    """
    earlier = aliased(RewardRow)
    is_first = ~sa.exists().where(
        earlier.episode_id == RewardRow.episode_id,
        sa.or_(
            earlier.created_at < RewardRow.created_at,
            sa.and_(earlier.created_at == RewardRow.created_at, earlier.id < RewardRow.id),
        ),
    )
    counts = sa.exists().where(
        EpisodeRow.id == RewardRow.episode_id,
        EpisodeRow.environment.is_(None),
        EpisodeRow.status != "error",
        *_of(version, window),
    )
    known, order = _order(RewardRow.created_at, RewardRow.episode_id, window)
    query = sa.select(RewardRow.created_at, RewardRow.episode_id).where(known, counts, is_first)
    return query.order_by(*order).limit(limit)


def with_ended_environment(version: int, limit: int, window: Window) -> sa.Select[float | None, str]:
    """Return the query of a version's live episodes whose environment has ended, each with the time of its end."""
    known, order = _order(EpisodeRow.closed_at, EpisodeRow.id, window)
    query = sa.select(EpisodeRow.closed_at, EpisodeRow.id).where(
        known,
        EpisodeRow.environment.is_not(None),
        EpisodeRow.status.in_(("terminated", "truncated")),
        *_of(version, window),
    )
    return query.order_by(*order).limit(limit)


def _of(version: int, window: Window) -> list[sa.ColumnElement[bool]]:
    """Return the conditions on an episode that counts for a version."""
    turn = sa.select(TurnRow.id).where(TurnRow.episode_id == EpisodeRow.id)
    return [
        EpisodeRow.policy_version == version,
        EpisodeRow.owner_hash.is_not(None),
        EpisodeRow.purpose != "evaluation",
        EpisodeRow.opened_at >= window.opened_from,
        turn.exists(),
        ~turn.where(TurnRow.policy_version.is_distinct_from(version)).exists(),
    ]


def _order(
    known_at: sa.SQLColumnExpression[Any], episode_id: sa.SQLColumnExpression[str], window: Window
) -> tuple[sa.ColumnElement[bool], tuple[sa.SQLColumnExpression[Any], ...]]:
    """Return the condition on the time at which a reward was known, and the order of the result."""
    if window.known_before is not None:
        return known_at < window.known_before, (known_at.desc(), episode_id.desc())
    return known_at >= window.opened_from, (known_at, episode_id)  # A reward is known after its episode has opened.
