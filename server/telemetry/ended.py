"""Reads what an export has not sent yet: episodes in the order of their ends, and rewards in the order of their ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.recording.privacy import ENDED
from server.store.tables import EpisodeRow, RewardRow, StepRow, TurnRow

SETTLED_S = 2.0
"""Age from which a row is read: a younger one may be committed after one that is younger still."""


@dataclass(slots=True)
class Ended:
    """An episode that has ended, without its tokens."""

    row: EpisodeRow
    turns: list[TurnRow] = field(default_factory=list)
    steps: list[StepRow] = field(default_factory=list)


def ended_after(session: Session, closed_at: float, episode_id: str, now: float, limit: int) -> list[Ended]:
    """Return the next episodes after a time of ending (Unix seconds) and an id, the earliest end first."""
    query = sa.select(EpisodeRow).where(
        EpisodeRow.status.in_(ENDED),
        EpisodeRow.closed_at >= closed_at,
        EpisodeRow.closed_at < now - SETTLED_S,
        sa.or_(EpisodeRow.closed_at > closed_at, EpisodeRow.id > episode_id),
    )
    rows = session.scalars(query.order_by(EpisodeRow.closed_at, EpisodeRow.id).limit(limit)).all()
    found = {row.id: Ended(row) for row in rows}
    for turn in session.scalars(_of(TurnRow, found).order_by(TurnRow.episode_id, TurnRow.index)):
        found[turn.episode_id].turns.append(turn)
    for step in session.scalars(_of(StepRow, found).order_by(StepRow.episode_id, StepRow.index)):
        found[step.episode_id].steps.append(step)
    return list(found.values())


def rewards_after(session: Session, reward_id: str, now: float, limit: int) -> Sequence[RewardRow]:
    """Return the next rewards after an id."""
    settled = RewardRow.created_at < now - SETTLED_S
    query = sa.select(RewardRow).where(RewardRow.id > reward_id, settled).order_by(RewardRow.id).limit(limit)
    return session.scalars(query).all()


def _of(table: Any, found: dict[str, Ended]) -> Any:
    return sa.select(table).where(table.episode_id.in_(list(found)))
