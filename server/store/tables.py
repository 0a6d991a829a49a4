"""The tables of the record. Every change here needs a revision in `migrations/versions/`; a test compares the two.

Ids are text that sorts by time. Times are Unix seconds. Token ids are little-endian int32 and logprobs float32 blobs,
so that a turn is stored exactly and costs what is new in it.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    String,
    UniqueConstraint,
)
from sqlalchemy import false as sa_false
from sqlalchemy.orm import Mapped, mapped_column

from server.store.base import Base, Id


class EpisodeRow(Base):
    """One agent run on one task, from open to close."""

    __tablename__ = "episode"
    __table_args__ = (
        CheckConstraint("status in ('open', 'terminated', 'truncated', 'closed', 'error')", name="status"),
        Index(None, "status", "closed_at"),
        Index(None, "owner_hash", "opened_at"),
        Index(None, "policy_version", "opened_at"),
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    status: Mapped[str] = mapped_column(String(16))
    error_class: Mapped[str | None]
    """Class of the failure; set exactly when status is `error`."""
    reason: Mapped[str | None]
    environment: Mapped[str | None] = mapped_column(String(200))
    task: Mapped[str | None]
    seed: Mapped[int]
    horizon: Mapped[int]
    group_key: Mapped[str | None] = mapped_column(String(300), index=True)
    play_id: Mapped[str | None] = mapped_column(ForeignKey("play.id"), index=True)
    purpose: Mapped[str] = mapped_column(String(16))
    policy_version: Mapped[int]
    """Version the episode was opened on; its turns name the versions that really sampled."""
    trainable: Mapped[bool]
    success: Mapped[bool | None]
    key_hash: Mapped[str | None] = mapped_column(String(64), unique=True)
    """SHA-256 of the episode's own API key."""
    owner_hash: Mapped[str | None] = mapped_column(String(64))
    """SHA-256 of the API key that opened the episode; NULL for a play's."""
    details: Mapped[dict[str, Any]]
    opened_at: Mapped[float]
    closed_at: Mapped[float | None]


class TurnRow(Base):
    """One chat request and its answer."""

    __tablename__ = "turn"
    __table_args__ = (
        UniqueConstraint("episode_id", "index"),
        Index(None, "episode_id", "digest"),
        Index(None, "digest"),
        Index(None, "idempotency_key"),
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    episode_id: Mapped[str] = mapped_column(ForeignKey("episode.id", ondelete="CASCADE"))
    index: Mapped[int]
    digest: Mapped[str] = mapped_column(String(64))
    """SHA-256 of the request body."""
    idempotency_key: Mapped[str | None] = mapped_column(String(200))
    """The caller's own name for the request."""
    choice: Mapped[int] = mapped_column(server_default="0", default=0)
    """Which of the answers that its request asked for."""
    messages: Mapped[list[Any]]
    """The messages that were new in this request."""
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
    """A run of tokens that extends its parent: a prompt's new tokens, or tokens sampled by one policy version."""

    __tablename__ = "node"

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    episode_id: Mapped[str] = mapped_column(ForeignKey("episode.id", ondelete="CASCADE"), index=True)
    turn_id: Mapped[str] = mapped_column(ForeignKey("turn.id", ondelete="CASCADE"), index=True)
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("node.id", ondelete="CASCADE"), index=True)
    token_ids: Mapped[bytes]
    logprobs: Mapped[bytes | None]
    sampled: Mapped[bool]
    """Written by the agent: trained in exactly one sample."""
    policy_version: Mapped[int | None]
    chain_hash: Mapped[str | None] = mapped_column(String(64), index=True)
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
    """A reward that came from outside the environment, perhaps late. No row is not a reward of 0."""

    __tablename__ = "reward"
    __table_args__ = (UniqueConstraint("episode_id", "key"),)

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    episode_id: Mapped[str] = mapped_column(ForeignKey("episode.id", ondelete="CASCADE"), index=True)
    turn_index: Mapped[int | None]
    value: Mapped[float]
    source: Mapped[str] = mapped_column(String(100))
    key: Mapped[str | None] = mapped_column(String(200))
    created_at: Mapped[float]


class RewardSourceRow(Base):
    """The rule by which the rewards of one source count; `*` is every source without a row."""

    __tablename__ = "reward_source"

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    weight: Mapped[float]
    cap: Mapped[float | None]
    """Largest absolute value that counts of it in one episode; NULL is no cap."""
    blocked: Mapped[bool]
    set_by: Mapped[str] = mapped_column(String(16))
    """`settings` or `api`."""
    changed_at: Mapped[float]


class ScoreRow(Base):
    """What came of one scorer's work on one episode; what it gave are rows of `reward`."""

    __tablename__ = "score"
    __table_args__ = (Index(None, "scorer", "state", "retry_at"),)

    episode_id: Mapped[str] = mapped_column(ForeignKey("episode.id", ondelete="CASCADE"), primary_key=True)
    scorer: Mapped[str] = mapped_column(Id, primary_key=True)
    state: Mapped[str] = mapped_column(String(16))
    """`scored`, perhaps without any reward, or `error`."""
    attempts: Mapped[int]
    retry_at: Mapped[float | None]
    """When an error is tried again; NULL is never."""
    error_class: Mapped[str | None]
    detail: Mapped[str | None]
    """Text of the error, or the judge's reason."""
    updated_at: Mapped[float]


class JudgementRow(Base):
    """A judge's verdict by the hash of what it was asked; it holds nothing of what was said."""

    __tablename__ = "judgement"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[float]
    created_at: Mapped[float]


class PlayRow(Base):
    """A list of tasks that the server itself plays."""

    __tablename__ = "play"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    state: Mapped[str] = mapped_column(String(16))
    error: Mapped[str | None]
    request: Mapped[dict[str, Any]]
    run_id: Mapped[str | None] = mapped_column(ForeignKey("run.id"), index=True)
    """The run whose candidate or champion it evaluates."""
    created_at: Mapped[float]
    ended_at: Mapped[float | None]


class PolicyVersionRow(Base):
    """A servable model; a version never changes meaning."""

    __tablename__ = "policy_version"

    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(200))
    state: Mapped[str] = mapped_column(String(16))
    """`loading`, `ready`, `failed`, or `retired`: its weights are deleted."""
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
    """Its weights stay, and no watch takes it out of live traffic."""
    created_at: Mapped[float]


class RunRow(Base):
    """One training run, from start to end."""

    __tablename__ = "run"
    __table_args__ = (Index(None, "state", "created_at"),)

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    state: Mapped[str] = mapped_column(String(16))
    slot: Mapped[str | None] = mapped_column(String(16), unique=True)
    """`learner` while running, else NULL: the unique constraint admits one running run."""
    trigger: Mapped[str] = mapped_column(String(100))
    config: Mapped[dict[str, Any]]
    step: Mapped[int]
    reason: Mapped[str | None]
    learner: Mapped[str | None] = mapped_column(String(200))
    lease_until: Mapped[float | None]
    first_version: Mapped[int | None]
    last_version: Mapped[int | None]
    created_at: Mapped[float]
    started_at: Mapped[float | None]
    resumed_at: Mapped[float | None]
    """When it began or last went on."""
    active_s: Mapped[float] = mapped_column(server_default="0", default=0.0)
    """How long it had been running when it last stopped, without its pauses."""
    gate: Mapped[str | None] = mapped_column(String(16), index=True)
    """`due`, perhaps `canary`, then `promoted`, `rejected` or `void`; NULL without an evaluation plan."""
    ended_at: Mapped[float | None]


class TriggerRow(Base):
    """A trigger that starts runs, and where it stands."""

    __tablename__ = "run_trigger"

    name: Mapped[str] = mapped_column(Id, primary_key=True)
    source: Mapped[str] = mapped_column(String(16))
    """`settings` or `api`."""
    rule: Mapped[dict[str, Any]]
    next_at: Mapped[float | None]
    due_since: Mapped[float | None]
    """It waits to start a run since then; times that were missed meanwhile are one."""
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
    """Episodes of this batch that have been erased since, and with them their lineage rows."""
    created_at: Mapped[float]


class RunEpisodeRow(Base):
    """Lineage: which episodes trained which version, and how strongly."""

    __tablename__ = "run_episode"

    run_id: Mapped[str] = mapped_column(ForeignKey("run.id"), primary_key=True)
    episode_id: Mapped[str] = mapped_column(ForeignKey("episode.id", ondelete="CASCADE"), primary_key=True, index=True)
    batch_id: Mapped[str] = mapped_column(ForeignKey("batch.id"), index=True)
    reward: Mapped[float | None]
    """The episode's reward when the batch was made: what comes later counts for the next run. NULL in older rows."""
    advantage: Mapped[float | None]
    weight: Mapped[float | None]
    """Trained tokens; NULL until the learner has acknowledged the batch."""


class EvaluationRow(Base):
    """Success of one version on a list of tasks, counted from played episodes."""

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
    """The ledger of champions: the newest row names the version that live traffic gets."""

    __tablename__ = "promotion"

    id: Mapped[int] = mapped_column(primary_key=True)
    from_version: Mapped[int | None] = mapped_column(ForeignKey("policy_version.version"))
    to_version: Mapped[int] = mapped_column(ForeignKey("policy_version.version"))
    action: Mapped[str] = mapped_column(String(16))
    """`first`, `publish`, `canary`, `promote`, `reject` or `rollback`; of a canary and of a reject `from_version` is
    the candidate."""
    reason: Mapped[str]
    decided_by: Mapped[str | None] = mapped_column(String(200))
    """Name of a caller's key, `gate`, `canary`, `watch` or `swap`."""
    run_id: Mapped[str | None] = mapped_column(ForeignKey("run.id"))
    """The run whose candidate the gate judged."""
    evidence: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[float]


class ShadowRow(Base):
    """What a version would have said to a live turn's prompt; never served, never trained on."""

    __tablename__ = "shadow"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    turn_id: Mapped[str] = mapped_column(ForeignKey("turn.id", ondelete="CASCADE"), index=True)
    version: Mapped[int] = mapped_column(ForeignKey("policy_version.version"))
    token_ids: Mapped[bytes]
    text: Mapped[str]
    same_tokens: Mapped[int]
    """How many first tokens are those of the served answer."""
    served_tokens: Mapped[int]
    served_logprob: Mapped[float | None]
    """Mean logprob of the served answer, of the version that gave it."""
    logprob: Mapped[float | None]
    """Mean logprob of the served answer, of this version."""
    created_at: Mapped[float]


class MetricRow(Base):
    """One number of one learner step."""

    __tablename__ = "metric"

    run_id: Mapped[str] = mapped_column(ForeignKey("run.id"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    value: Mapped[float]
    created_at: Mapped[float]


class ApiKeyRow(Base):
    """An API key, stored as its hash."""

    __tablename__ = "api_key"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    key_hash: Mapped[str] = mapped_column(String(64), unique=True)
    name: Mapped[str] = mapped_column(String(200))
    scopes: Mapped[list[Any]]
    requests_per_minute: Mapped[int | None]
    max_concurrent: Mapped[int | None]
    """Requests at once; a stream counts until its end. NULL is no limit, as above."""
    created_at: Mapped[float]
    revoked_at: Mapped[float | None]
