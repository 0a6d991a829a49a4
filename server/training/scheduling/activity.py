"""Recent activity of live agents, from SQL: newly scored episodes, and the last live turn."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.rewards.rules import read_rules
from server.store.tables import EpisodeRow, RewardRow, RunEpisodeRow, StepRow, TurnRow


def scored_since(session: Session, since: float | None, most: int) -> int:
    """Count episodes that were scored after a time and that no run has trained on; stop at `most`.

    An episode is scored once it has ended and has a reward that counts. Episodes of the server's own plays are ignored.
    """
    stepped = sa.exists().where(StepRow.episode_id == EpisodeRow.id)
    rewarded = (
        sa.select(sa.func.min(RewardRow.created_at))
        .where(RewardRow.episode_id == EpisodeRow.id, read_rules(session).counted())
        .scalar_subquery()
    )
    query = sa.select(EpisodeRow.id).where(
        EpisodeRow.trainable,
        EpisodeRow.status.in_(("terminated", "truncated", "closed")),
        EpisodeRow.play_id.is_(None),
        EpisodeRow.purpose != "evaluation",
        # An environment that was closed before its end gave no verdict.
        sa.or_(EpisodeRow.status != "closed", EpisodeRow.environment.is_(None)),
        sa.not_(sa.exists().where(RunEpisodeRow.episode_id == EpisodeRow.id)),
        sa.or_(stepped, rewarded.is_not(None)),
    )
    if since is not None:
        query = query.where(sa.or_(EpisodeRow.closed_at > since, sa.and_(sa.not_(stepped), rewarded > since)))
    return session.scalar(sa.select(sa.func.count()).select_from(query.limit(most).subquery())) or 0


def last_live_turn(session: Session) -> float | None:
    """Return the time of the last answer to an agent; the server's own plays are ignored."""
    return session.scalar(
        sa.select(TurnRow.created_at)
        .join(EpisodeRow, EpisodeRow.id == TurnRow.episode_id)
        .where(EpisodeRow.play_id.is_(None))
        .order_by(TurnRow.id.desc())
        .limit(1)
    )
