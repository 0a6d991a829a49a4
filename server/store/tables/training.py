"""Training runs: their triggers, batches, lineage and metrics."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import Mapped, mapped_column

from server.store.base import Base, Id


class CampaignRow(Base):
    """What is trained from night to night: its runs continue one another."""

    __tablename__ = "campaign"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    created_at: Mapped[float]


class RunRow(Base):
    """One training run."""

    __tablename__ = "run"
    __table_args__ = (Index(None, "state", "created_at"),)

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    state: Mapped[str] = mapped_column(String(16))
    slot: Mapped[str | None] = mapped_column(String(16), unique=True)
    """`learner` while running, otherwise NULL: the unique constraint admits one running run."""
    trigger: Mapped[str] = mapped_column(String(100))
    config: Mapped[dict[str, Any]]
    step: Mapped[int]
    reason: Mapped[str | None]
    learner: Mapped[str | None] = mapped_column(String(200))
    lease_until: Mapped[float | None]
    first_version: Mapped[int | None]
    last_version: Mapped[int | None]
    oldest_live: Mapped[int | None]
    """The oldest version whose live episodes it takes, decided when it began: versions that it publishes itself make no
    live episode stale. NULL until then, and in older rows."""
    created_at: Mapped[float]
    started_at: Mapped[float | None]
    resumed_at: Mapped[float | None]
    """When it started or last resumed."""
    active_s: Mapped[float] = mapped_column(server_default="0", default=0.0)
    """Running time up to its last stop, without pauses, in seconds."""
    gate: Mapped[str | None] = mapped_column(String(16), index=True)
    """`due`, sometimes `canary`, then `promoted`, `continued`, `rejected` or `void`; NULL without an evaluation
    plan."""
    campaign_id: Mapped[str | None] = mapped_column(ForeignKey("campaign.id"), index=True)
    """NULL for a run by itself."""
    follows_id: Mapped[str | None] = mapped_column(Id)
    """The run of the campaign whose state this one continues; set when it starts."""
    follows_step: Mapped[int | None]
    """Number of that run's steps after which its state is continued."""
    first_step: Mapped[int] = mapped_column(server_default="0", default=0)
    """Global learner step of this run's step 0."""
    attempt: Mapped[int] = mapped_column(server_default="0", default=0)
    """How often the campaign went back before this run: repeated global steps play other seeds."""
    ledger_id: Mapped[int | None]
    """The newest row of the ledger when a run of a campaign started: later rollbacks concern it. NULL in older rows."""
    collapsed: Mapped[bool] = mapped_column(server_default=sa.false(), default=False)
    """A guard stopped it."""
    ended_at: Mapped[float | None]


class TriggerRow(Base):
    """A trigger that starts runs, and its state."""

    __tablename__ = "run_trigger"

    name: Mapped[str] = mapped_column(Id, primary_key=True)
    source: Mapped[str] = mapped_column(String(16))
    """`settings` or `api`."""
    rule: Mapped[dict[str, Any]]
    next_at: Mapped[float | None]
    due_since: Mapped[float | None]
    """Since when it has been waiting to start a run; firings missed meanwhile count as one."""
    fired_at: Mapped[float | None]
    fired_run: Mapped[str | None] = mapped_column(ForeignKey("run.id"))
    fired_why: Mapped[str | None]
    created_at: Mapped[float]


class BatchRow(Base):
    """The batch of one learner step."""

    __tablename__ = "batch"
    __table_args__ = (UniqueConstraint("run_id", "step"),)

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("run.id"))
    step: Mapped[int]
    horizon: Mapped[int]
    state: Mapped[str] = mapped_column(String(16))
    play_id: Mapped[str | None] = mapped_column(ForeignKey("play.id"))
    stats: Mapped[dict[str, Any]]
    policy_version: Mapped[int | None]
    erased_episodes: Mapped[int] = mapped_column(server_default="0", default=0)
    """Episodes of this batch that were erased later, together with their lineage rows."""
    created_at: Mapped[float]

    @hybrid_property
    def published(self) -> bool:
        """Whether the step trained and published a version; a step without anything to learn from did not."""
        return self.state == "trained" and self.policy_version is not None

    @published.inplace.expression
    @classmethod
    def _published(cls) -> sa.ColumnElement[bool]:
        return sa.and_(cls.state == "trained", cls.policy_version.is_not(None))


class RunEpisodeRow(Base):
    """Lineage: which episodes trained which version, and with what weight."""

    __tablename__ = "run_episode"

    run_id: Mapped[str] = mapped_column(ForeignKey("run.id"), primary_key=True)
    episode_id: Mapped[str] = mapped_column(ForeignKey("episode.id", ondelete="CASCADE"), primary_key=True, index=True)
    batch_id: Mapped[str] = mapped_column(ForeignKey("batch.id"), index=True)
    reward: Mapped[float | None]
    """The episode's reward when the batch was made; later rewards count for the next run. NULL in older rows."""
    advantage: Mapped[float | None]
    weight: Mapped[float | None]
    """Trained tokens; NULL until the learner has acknowledged the batch."""


class MetricRow(Base):
    """One metric of one learner step."""

    __tablename__ = "metric"

    run_id: Mapped[str] = mapped_column(ForeignKey("run.id"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    value: Mapped[float]
    created_at: Mapped[float]
