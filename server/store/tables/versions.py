"""Policy versions: their weights, evaluations, promotions and shadow answers."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, ForeignKey, String
from sqlalchemy import false as sa_false
from sqlalchemy.orm import Mapped, mapped_column

from server.store.base import Base, Id


class PolicyVersionRow(Base):
    """A servable model. A version never changes meaning."""

    __tablename__ = "policy_version"

    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(200))
    state: Mapped[str] = mapped_column(String(16))
    """`loading`, `ready`, `failed`, or `retired` (its weights are deleted)."""
    kind: Mapped[str] = mapped_column(String(16))
    path: Mapped[str]
    manifest_sha256: Mapped[str | None] = mapped_column(String(64))
    parent: Mapped[int | None] = mapped_column(ForeignKey("policy_version.version"))
    run_id: Mapped[str | None] = mapped_column(ForeignKey("run.id"), index=True)
    step: Mapped[int | None]
    horizon: Mapped[int | None]
    swap_s: Mapped[float | None]
    check_mean: Mapped[float | None]
    check_max: Mapped[float | None]
    reason: Mapped[str | None]
    """Why it failed."""
    pinned: Mapped[bool] = mapped_column(server_default=sa_false(), default=False)
    """Its weights are kept, and no watch removes it from live traffic."""
    created_at: Mapped[float]


class EvaluationRow(Base):
    """Success of one version on a list of tasks, measured in played episodes."""

    __tablename__ = "evaluation"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    play_id: Mapped[str] = mapped_column(ForeignKey("play.id"), unique=True)
    policy_version: Mapped[int] = mapped_column(ForeignKey("policy_version.version"), index=True)
    environment: Mapped[str] = mapped_column(String(200))
    horizon: Mapped[int]
    episodes: Mapped[int]
    success_rate: Mapped[float | None]
    mean_reward: Mapped[float | None]
    created_at: Mapped[float]


class PromotionRow(Base):
    """The ledger of champions. The newest row names the version that serves live traffic."""

    __tablename__ = "promotion"

    id: Mapped[int] = mapped_column(primary_key=True)
    from_version: Mapped[int | None] = mapped_column(ForeignKey("policy_version.version"))
    to_version: Mapped[int] = mapped_column(ForeignKey("policy_version.version"))
    action: Mapped[str] = mapped_column(String(16))
    """`first`, `publish`, `canary`, `promote`, `continue`, `reject` or `rollback`. For `canary`, `continue` and
    `reject`, `from_version` is the candidate."""
    reason: Mapped[str]
    decided_by: Mapped[str | None] = mapped_column(String(200))
    """Name of the caller's key, or `gate`, `canary`, `watch` or `swap`."""
    run_id: Mapped[str | None] = mapped_column(ForeignKey("run.id"))
    """The run whose candidate the gate judged."""
    evidence: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[float]


class ShadowRow(Base):
    """A version's answer to a live turn's prompt, which is never served and never trained on."""

    __tablename__ = "shadow"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    turn_id: Mapped[str] = mapped_column(ForeignKey("turn.id", ondelete="CASCADE"), index=True)
    version: Mapped[int] = mapped_column(ForeignKey("policy_version.version"))
    token_ids: Mapped[bytes]
    text: Mapped[str]
    same_tokens: Mapped[int]
    """Length of the common prefix with the served answer, in tokens."""
    served_tokens: Mapped[int]
    served_logprob: Mapped[float | None]
    """Mean logprob of the served answer under the version that gave it."""
    logprob: Mapped[float | None]
    """Mean logprob of the served answer under this version."""
    created_at: Mapped[float]
