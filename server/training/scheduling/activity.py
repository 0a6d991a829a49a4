"""Recent activity of live agents, from SQL: newly scored episodes, and the last live turn."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.rewards.rules import read_rules
from server.store.database import id_at
from server.store.tables import EpisodeRow, RewardRow, RunEpisodeRow, StepRow, TurnRow

LONGEST_TURN_S = 3600.0
"""A turn gets its id when it begins; longest time from then to its answer."""


def scored_since(session: Session, since: float | None, most: int) -> int:
    """Count episodes that were scored after a time and that no run has trained on; stop at `most`.

    An episode is scored once it has ended and has a reward that counts. Episodes of the server's own plays are ignored.
    """
    query = scored(read_rules(session).counted(), since).limit(most)
    return session.scalar(sa.select(sa.func.count()).select_from(query.subquery())) or 0


def scored(counted: sa.ColumnElement[bool], since: float | None) -> sa.Select[str]:
    """Return the query of the episodes that `scored_since` counts, the last ended first.

    Args:
        counted: the condition on rewards that count.
        since: Unix seconds; of all episodes, only those that ended or were rewarded after this are searched.
    """
    stepped = sa.exists().where(StepRow.episode_id == EpisodeRow.id)
    rewarded = (
        sa.select(sa.func.min(RewardRow.created_at))
        .where(RewardRow.episode_id == EpisodeRow.id, counted)
        .scalar_subquery()
    )
    query = sa.select(EpisodeRow.id).where(
        EpisodeRow.trainable,
        EpisodeRow.status != "error",
        EpisodeRow.play_id.is_(None),
        EpisodeRow.closed_at.is_not(None),
        EpisodeRow.purpose != "evaluation",
        # An environment that was closed before its end gave no verdict.
        sa.or_(EpisodeRow.status != "closed", EpisodeRow.environment.is_(None)),
        sa.not_(sa.exists().where(RunEpisodeRow.episode_id == EpisodeRow.id)),
        sa.or_(stepped, rewarded.is_not(None)),
    )
    if since is None:
        return query.order_by(EpisodeRow.closed_at.desc(), EpisodeRow.id.desc())
    ended = sa.select(EpisodeRow.id).where(EpisodeRow.play_id.is_(None), EpisodeRow.closed_at > since)
    changed = ended.union_all(sa.select(RewardRow.episode_id).where(RewardRow.created_at > since))
    return query.where(
        EpisodeRow.id.in_(changed),
        sa.or_(EpisodeRow.closed_at > since, sa.and_(sa.not_(stepped), rewarded > since)),
    )


def last_live_turn(session: Session, since: float) -> float | None:
    """Return the time of the last answer to an agent, or None if there is none since a time, in Unix seconds.

    The server's own plays are ignored.
    """
    return session.scalar(live_turns(since).limit(1))


def live_turns(since: float) -> sa.Select[float]:
    """Return the query of the times of answers to agents since a time, the newest first."""
    live = sa.exists().where(EpisodeRow.id == TurnRow.episode_id, EpisodeRow.play_id.is_(None))
    return (
        sa.select(TurnRow.created_at)
        .where(TurnRow.id >= id_at("turn", max(0.0, since - LONGEST_TURN_S)), live)
        .order_by(TurnRow.id.desc())
    )
