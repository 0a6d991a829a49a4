"""Rows of the leaderboard."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from server.store.base import Base, Id


class LeaderboardRow(Base):
    """A model that is measured on tasks. Its figures are computed from the recorded episodes."""

    __tablename__ = "leaderboard"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    environment: Mapped[str] = mapped_column(String(200), index=True)
    request: Mapped[dict[str, Any]]
    play_id: Mapped[str | None] = mapped_column(ForeignKey("play.id"))
    """The play of a policy; NULL for an endpoint, whose episodes have groups that begin with this row's id."""
    state: Mapped[str | None] = mapped_column(String(16))
    """`running`, `done` or `failed`; NULL for a policy, whose play says it."""
    error: Mapped[str | None]
    prompt_tokens: Mapped[int | None]
    completion_tokens: Mapped[int | None]
    """As the endpoint counts them; NULL for a policy, whose turns say it."""
    created_at: Mapped[float]
    ended_at: Mapped[float | None]
