"""The rules of external rewards, the outcomes of scorers and judges, and what people say about episodes."""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint
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


class FeedbackRow(Base):
    """What a person said about an episode."""

    __tablename__ = "feedback"
    __table_args__ = (UniqueConstraint("episode_id", "key"),)

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    episode_id: Mapped[str] = mapped_column(Id, ForeignKey("episode.id", ondelete="CASCADE"))
    turn_index: Mapped[int | None]
    thumb: Mapped[str | None] = mapped_column(String(4))
    """`up` or `down`; its reward is a row of `reward`."""
    comment: Mapped[str | None]
    answer: Mapped[str | None]
    """What the turn should have answered."""
    source: Mapped[str] = mapped_column(String(100))
    key: Mapped[str | None] = mapped_column(String(200))
    """The caller's idempotency key."""
    reward_id: Mapped[str | None] = mapped_column(Id)
    demonstration_id: Mapped[str | None] = mapped_column(Id, index=True)
    """The episode that holds the answer, to be trained on; it may have been erased since."""
    created_at: Mapped[float]


class JudgementRow(Base):
    """A judge's verdict by the hash of its question; it contains no part of the conversation."""

    __tablename__ = "judgement"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[float]
    created_at: Mapped[float]
