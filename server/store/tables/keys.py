"""API keys."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, String
from sqlalchemy.orm import Mapped, mapped_column

from server.store.base import Base, Id


class ApiKeyRow(Base):
    """An API key, stored as its hash."""

    __tablename__ = "api_key"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    key_hash: Mapped[str] = mapped_column(String(64), unique=True)
    name: Mapped[str] = mapped_column(String(200))
    scopes: Mapped[list[Any]]
    reward_sources: Mapped[list[Any] | None] = mapped_column(JSON(none_as_null=True))
    """The only names under which it may reward; NULL is any that is not reserved."""
    requests_per_minute: Mapped[int | None]
    max_concurrent: Mapped[int | None]
    """Concurrent requests; a stream counts until its end. NULL is no limit, as for `requests_per_minute`."""
    created_at: Mapped[float]
    revoked_at: Mapped[float | None]
