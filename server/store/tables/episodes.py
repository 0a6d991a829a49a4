"""Plays, and episodes with their turns, token nodes, steps and rewards."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Integer, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from server.store.base import Base, Id


def _partial(name: str, *columns: str, where: str) -> Index:
    """Return an index of the rows that meet a condition."""
    return Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))


class PlayRow(Base):
    """Tasks that the server itself plays."""

    __tablename__ = "play"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    state: Mapped[str] = mapped_column(String(16))
    error: Mapped[str | None]
    request: Mapped[dict[str, Any]]
    run_id: Mapped[str | None] = mapped_column(ForeignKey("run.id"), index=True)
    """The run whose candidate or champion it evaluates."""
    batch_id: Mapped[str | None] = mapped_column(String(64), index=True)
    """The batch whose groups without variance it replaces; the batch's own row names its first play."""
    created_at: Mapped[float]
    ended_at: Mapped[float | None]


class EpisodeRow(Base):
    """One agent run on one task, from open to close."""

    __tablename__ = "episode"
    __table_args__ = (
        CheckConstraint("status in ('open', 'terminated', 'truncated', 'closed', 'error')", name="status"),
        Index(None, "status", "closed_at"),
        Index(None, "status", "id"),
        Index(None, "owner_hash", "id"),
        Index(None, "conversation_key", "id"),
        Index(None, "continues_id", "id"),
        _partial("ix_episode_play_id", "play_id", where="play_id IS NOT NULL"),
        _partial("ix_episode_ended_live", "closed_at", "id", where="play_id IS NULL AND closed_at IS NOT NULL"),
        _partial("ix_episode_live_opened", "policy_version", "opened_at", "id", where="owner_hash IS NOT NULL"),
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    status: Mapped[str] = mapped_column(String(16))
    error_class: Mapped[str | None]
    """Class of the failure; set if and only if the status is `error`."""
    reason: Mapped[str | None]
    environment: Mapped[str | None] = mapped_column(String(200))
    task: Mapped[str | None]
    seed: Mapped[int]
    horizon: Mapped[int]
    group_key: Mapped[str | None] = mapped_column(String(300), index=True)
    play_id: Mapped[str | None] = mapped_column(ForeignKey("play.id"))
    repetition: Mapped[int | None]
    """Which of the play's episodes of this task it is, from 0; NULL outside of plays, and in old rows."""
    purpose: Mapped[str] = mapped_column(String(16))
    policy_version: Mapped[int]
    """Version on which the episode was opened; its turns name the versions that actually sampled."""
    trainable: Mapped[bool]
    success: Mapped[bool | None]
    key_hash: Mapped[str | None] = mapped_column(String(64), unique=True)
    """SHA-256 of the episode's own API key."""
    owner_hash: Mapped[str | None] = mapped_column(String(64))
    """SHA-256 of the API key that opened the episode; NULL in a play."""
    conversation_key: Mapped[str | None] = mapped_column(String(64))
    """Hash of the owner and of the client's own id of the conversation, if it sends one."""
    continues_id: Mapped[str | None] = mapped_column(String(64))
    """The ended episode whose conversation it continues; that one may have been erased since."""
    details: Mapped[dict[str, Any]]
    opened_at: Mapped[float]
    closed_at: Mapped[float | None]


class TurnRow(Base):
    """One chat request and its answer."""

    __tablename__ = "turn"
    __table_args__ = (
        UniqueConstraint("episode_id", "index"),
        Index(None, "episode_id", "digest"),
        Index(None, "digest", "id"),
        Index(None, "idempotency_key"),
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    episode_id: Mapped[str] = mapped_column(ForeignKey("episode.id", ondelete="CASCADE"))
    index: Mapped[int]
    digest: Mapped[str] = mapped_column(String(64))
    """SHA-256 of the request body."""
    idempotency_key: Mapped[str | None] = mapped_column(String(200))
    """The caller's idempotency key for the request."""
    choice: Mapped[int] = mapped_column(server_default="0", default=0)
    """Index of the answer among the answers to one request."""
    messages: Mapped[list[Any]]
    """The request's new messages."""
    answer: Mapped[dict[str, Any]]
    """The assistant's message."""
    finish_reason: Mapped[str] = mapped_column(String(16))
    prompt_tokens: Mapped[int]
    completion_tokens: Mapped[int]
    policy_version: Mapped[int | None]
    temperature: Mapped[float]
    trainable: Mapped[bool]
    untrainable_reason: Mapped[str | None]
    forked: Mapped[bool]
    """The request did not extend the episode's newest turn."""
    duration_ms: Mapped[float]
    created_at: Mapped[float]


class NodeRow(Base):
    """Consecutive tokens that extend their parent: a prompt's new tokens, or tokens sampled by one policy version."""

    __tablename__ = "node"

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    episode_id: Mapped[str] = mapped_column(ForeignKey("episode.id", ondelete="CASCADE"), index=True)
    turn_id: Mapped[str] = mapped_column(ForeignKey("turn.id", ondelete="CASCADE"), index=True)
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("node.id", ondelete="CASCADE"), index=True)
    token_ids: Mapped[bytes]
    logprobs: Mapped[bytes | None]
    sampled: Mapped[bool]
    """Sampled tokens are trained in exactly one sample."""
    policy_version: Mapped[int | None]
    chain_hash: Mapped[str | None] = mapped_column(String(64))
    """Hash of all messages up to and including this answer; set on a turn's last node."""


class StepRow(Base):
    """One environment transition."""

    __tablename__ = "step"

    episode_id: Mapped[str] = mapped_column(ForeignKey("episode.id", ondelete="CASCADE"), primary_key=True)
    index: Mapped[int] = mapped_column(primary_key=True)
    action: Mapped[str]
    observation: Mapped[str]
    reward: Mapped[float]
    terminated: Mapped[bool]
    truncated: Mapped[bool]
    info: Mapped[dict[str, Any]]
    created_at: Mapped[float]


class RewardRow(Base):
    """A reward from outside the environment, perhaps late. A missing row is not a reward of 0."""

    __tablename__ = "reward"
    __table_args__ = (UniqueConstraint("episode_id", "key"), Index(None, "created_at", "episode_id"))

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    episode_id: Mapped[str] = mapped_column(ForeignKey("episode.id", ondelete="CASCADE"), index=True)
    turn_index: Mapped[int | None]
    value: Mapped[float]
    source: Mapped[str] = mapped_column(String(100))
    key: Mapped[str | None] = mapped_column(String(200))
    created_at: Mapped[float]
