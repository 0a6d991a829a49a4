"""Rewards of a version's live episodes, in the order in which they became known.

A live episode was opened with an API key on this server: it is neither one of the server's own plays nor imported. It
counts for a version if that version alone answered in it. Its reward is known once its environment has ended or,
without an environment, once it has a reward.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.rewards.totals import rewards_of
from server.store.tables import EpisodeRow, RewardRow, TurnRow


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
    first_reward = (
        sa.select(sa.func.min(RewardRow.created_at)).where(RewardRow.episode_id == EpisodeRow.id).scalar_subquery()
    )
    known_at = sa.case((EpisodeRow.environment.is_not(None), EpisodeRow.closed_at), else_=first_reward)
    turn = sa.select(TurnRow.id).where(TurnRow.episode_id == EpisodeRow.id)
    query = sa.select(EpisodeRow.id).where(
        EpisodeRow.policy_version == version,
        EpisodeRow.owner_hash.is_not(None),
        EpisodeRow.purpose != "evaluation",
        sa.or_(
            sa.and_(EpisodeRow.environment.is_(None), EpisodeRow.status != "error"),
            EpisodeRow.status.in_(("terminated", "truncated")),
        ),
        known_at.is_not(None),
        turn.exists(),
        sa.not_(turn.where(TurnRow.policy_version.is_distinct_from(version)).exists()),
    )
    if known_before is None:
        query = query.where(EpisodeRow.opened_at >= opened_from).order_by(known_at, EpisodeRow.id)
    else:
        query = query.where(known_at < known_before).order_by(known_at.desc(), EpisodeRow.id)
    ids = list(session.scalars(query.limit(limit)))
    rewards = rewards_of(session, ids)
    return [reward for episode_id in ids if (reward := rewards[episode_id]) is not None]
