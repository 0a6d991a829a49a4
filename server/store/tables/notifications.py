"""Notifications: events that people are told of, and the targets that get them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from server.store.base import Base, Id


class NotificationRow(Base):
    """One event for one target."""

    __tablename__ = "notification"
    __table_args__ = (UniqueConstraint("key", "target"), Index(None, "target", "state", "number"))

    number: Mapped[int] = mapped_column(primary_key=True)
    """A target gets its events in this order."""
    id: Mapped[str] = mapped_column(Id)
    """Id of the event, the same for all targets and attempts."""
    key: Mapped[str] = mapped_column(String(100))
    """What the event reports, such as `promotion:12`: a target gets it once."""
    target: Mapped[str] = mapped_column(String(16))
    """`webhook` or `command`."""
    type: Mapped[str] = mapped_column(String(40))
    payload: Mapped[dict[str, Any]]
    """What is sent."""
    state: Mapped[str] = mapped_column(String(16))
    """`waiting`, `sent` or `given_up`."""
    attempts: Mapped[int]
    error: Mapped[str | None]
    """Why the last attempt failed."""
    created_at: Mapped[float]
    tried_at: Mapped[float | None]
    """When the last attempt began."""


class NotificationTargetRow(Base):
    """A target, and since when it is told of events."""

    __tablename__ = "notification_target"

    name: Mapped[str] = mapped_column(String(16), primary_key=True)
    since: Mapped[float]
    promotion_id: Mapped[int]
    """Newest row of the ledger at that time, or 0."""
