"""The rules of external rewards, and the outcomes of scorers and judges."""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from server.store.base import Base, Id


class RewardSourceRow(Base):
    """How the rewards of one source count; `*` covers every source without its own row."""

    __tablename__ = "reward_source"

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    weight: Mapped[float]
    cap: Mapped[float | None]
    """Largest absolute total of the source in one episode; NULL is no cap."""
    blocked: Mapped[bool]
    set_by: Mapped[str] = mapped_column(String(16))
    """`settings` or `api`."""
    changed_at: Mapped[float]


class ScoreRow(Base):
    """Outcome of one scorer's work on one episode; its rewards are rows of `reward`."""

    __tablename__ = "score"
    __table_args__ = (Index(None, "scorer", "state", "retry_at"),)

    episode_id: Mapped[str] = mapped_column(ForeignKey("episode.id", ondelete="CASCADE"), primary_key=True)
    scorer: Mapped[str] = mapped_column(Id, primary_key=True)
    state: Mapped[str] = mapped_column(String(16))
    """`scored`, perhaps without any reward, or `error`."""
    attempts: Mapped[int]
    retry_at: Mapped[float | None]
    """When to try again after an error; NULL is never."""
    error_class: Mapped[str | None]
    detail: Mapped[str | None]
    """The error's text, or the judge's reason."""
    updated_at: Mapped[float]


class JudgementRow(Base):
    """A judge's verdict by the hash of its question; it contains no part of the conversation."""

    __tablename__ = "judgement"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[float]
    created_at: Mapped[float]
