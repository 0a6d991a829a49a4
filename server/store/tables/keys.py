"""API keys."""

from __future__ import annotations

from typing import Any

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from server.store.base import Base, Id


class ApiKeyRow(Base):
    """An API key, stored as its hash."""

    __tablename__ = "api_key"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    key_hash: Mapped[str] = mapped_column(String(64), unique=True)
    name: Mapped[str] = mapped_column(String(200))
    scopes: Mapped[list[Any]]
    requests_per_minute: Mapped[int | None]
    max_concurrent: Mapped[int | None]
    """Concurrent requests; a stream counts until its end. NULL is no limit, as for `requests_per_minute`."""
    created_at: Mapped[float]
    revoked_at: Mapped[float | None]
