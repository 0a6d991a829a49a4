"""Which episodes a scorer has to score: decided in SQL, so that no restart or crash can lose one.

An ended, trainable episode of a live agent is due if it has neither a score row nor rewards of the scorer, or if its
last attempt failed and may be retried.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.recording.reading.feedback import DEMONSTRATION
from server.store.tables import EpisodeRow, RewardRow, ScoreRow, TurnRow

KEY = "scorer:"
"""Prefix of the idempotency keys of scorers' rewards."""


def reward_key(scorer: str, turn: int | None = None) -> str:
    """Return the idempotency key of a scorer's reward for a turn, or for the whole episode."""
    return f"{KEY}{scorer}" if turn is None else f"{KEY}{scorer}:{turn}"


@dataclass(frozen=True, slots=True)
class Due:
    """Episodes that are due."""

    fresh: list[str]
    """Never attempted, the last ended first."""
    retries: list[str]
    """Failed and due for a retry, the longest waiting first."""
    next_retry_at: float | None
    """Unix seconds of the next later retry."""


def read_due(session: Session, scorer: str, *, ended_after: float, now: float, limit: int) -> Due:
    """Return up to `limit` fresh episodes and up to `limit` retries.

    Args:
        session: a database session.
        scorer: name of the scorer.
        ended_after: Unix seconds; every episode that ended before this has been attempted.
        now: Unix seconds.
        limit: maximum number of episodes in each list.
    """
    fresh = never_attempted(scorer, ended_after).limit(limit)
    failed = (ScoreRow.scorer == scorer, ScoreRow.state == "error", ScoreRow.retry_at.is_not(None))
    retries = (
        sa.select(ScoreRow.episode_id)
        .join(EpisodeRow, EpisodeRow.id == ScoreRow.episode_id)
        .where(*failed, ScoreRow.retry_at <= now, EpisodeRow.trainable)
        .order_by(ScoreRow.retry_at)
        .limit(limit)
    )
    next_retry = sa.select(sa.func.min(ScoreRow.retry_at)).where(*failed, ScoreRow.retry_at > now)
    return Due(list(session.scalars(fresh)), list(session.scalars(retries)), session.scalar(next_retry))


def never_attempted(scorer: str, ended_after: float) -> sa.Select[str]:
    """Return the query of the episodes that ended after a time and were never attempted, the last ended first."""
    key = reward_key(scorer)
    attempted = sa.exists().where(ScoreRow.episode_id == EpisodeRow.id, ScoreRow.scorer == scorer)
    rewarded = sa.exists().where(
        RewardRow.episode_id == EpisodeRow.id,
        sa.or_(RewardRow.key == key, RewardRow.key.startswith(f"{key}:", autoescape=True)),
    )
    return (
        sa.select(EpisodeRow.id)
        .where(
            EpisodeRow.status != "error",
            EpisodeRow.closed_at > ended_after,
            EpisodeRow.environment.is_(None),
            EpisodeRow.play_id.is_(None),
            EpisodeRow.trainable,
            EpisodeRow.purpose.not_in(("evaluation", DEMONSTRATION)),
            sa.exists().where(TurnRow.episode_id == EpisodeRow.id),
            ~attempted,
            ~rewarded,
        )
        .order_by(EpisodeRow.closed_at.desc(), EpisodeRow.id.desc())
    )
