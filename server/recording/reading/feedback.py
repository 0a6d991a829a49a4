"""Reads what people said about episodes, and which episodes are demonstrations of theirs."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.store.tables import EpisodeRow, FeedbackRow
from upturn.wire import FeedbackView

DEMONSTRATION = "demonstration"
"""Purpose of an episode that holds an edited answer: no scorer judges it."""


def feedback_of(session: Session, episode_id: str) -> list[FeedbackView]:
    """Return what was said about an episode, oldest first."""
    rows = session.scalars(
        sa.select(FeedbackRow).where(FeedbackRow.episode_id == episode_id).order_by(FeedbackRow.id)
    ).all()
    named = [row.demonstration_id for row in rows if row.demonstration_id is not None]
    kept = set(session.scalars(sa.select(EpisodeRow.id).where(EpisodeRow.id.in_(named)))) if named else set()
    return [feedback_view(row, row.demonstration_id if row.demonstration_id in kept else None) for row in rows]


def corrected_by(session: Session, episode_id: str) -> str | None:
    """Return the episode that a demonstration corrects; None if the episode is no demonstration."""
    return session.scalar(sa.select(FeedbackRow.episode_id).where(FeedbackRow.demonstration_id == episode_id))


def demonstrations_of(session: Session, episode_ids: Sequence[str]) -> list[str]:
    """Return the demonstrations that correct some episodes."""
    query = sa.select(FeedbackRow.demonstration_id).where(
        FeedbackRow.episode_id.in_(episode_ids), FeedbackRow.demonstration_id.is_not(None)
    )
    return [found for found in session.scalars(query) if found is not None]


def feedback_view(row: FeedbackRow, demonstration_id: str | None) -> FeedbackView:
    """Return a row as a message, with the demonstration if it is still there."""
    return FeedbackView(
        id=row.id,
        thumb=row.thumb,  # type: ignore[arg-type]
        comment=row.comment,
        answer=row.answer,
        turn=row.turn_index,
        source=row.source,
        reward_id=row.reward_id,
        demonstration_id=demonstration_id,
        created_at=row.created_at,
    )
