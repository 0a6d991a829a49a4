"""Writes records into the database, with their own ids."""

from __future__ import annotations

import json
import math

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.recording.portable.records import EpisodeRecord, RewardRecord, StepRecord, TurnRecord
from server.recording.tokens import pack_ids, pack_logprobs
from server.store.tables import EpisodeRow, NodeRow, RewardRow, ScoreRow, StepRow, TurnRow

_EPISODE_FIELDS = (
    "status",
    "error_class",
    "reason",
    "environment",
    "task",
    "seed",
    "horizon",
    "purpose",
    "policy_version",
    "trainable",
    "success",
    "opened_at",
    "closed_at",
)


def erase_content(session: Session, episode_id: str) -> None:
    """Delete the part of an episode that a record replaces; its key, owner, play and lineage stay."""
    for table in (TurnRow, StepRow, RewardRow, ScoreRow):
        session.execute(sa.delete(table).where(table.episode_id == episode_id))


def write_record(session: Session, record: EpisodeRecord) -> None:
    """Store an episode with all its rows. Ids are the record's own, except node ids, which the database assigns."""
    row = session.get(EpisodeRow, record.id) or EpisodeRow(id=record.id)
    for name in _EPISODE_FIELDS:
        setattr(row, name, getattr(record, name))
    row.group_key, row.details = record.group, json.loads(record.metadata)
    session.add(row)
    session.flush()
    session.add_all(_turn_row(record.id, turn) for turn in record.turns)
    session.flush()
    ends: dict[int | None, int | None] = {None: None}  # Last node of a turn, by the turn's index.
    for turn in record.turns:
        ends[turn.index] = _write_nodes(session, record.id, turn, ends[turn.extends])
    session.add_all(_step_row(record.id, step) for step in record.steps)
    session.add_all(_reward_row(record.id, reward) for reward in record.rewards)
    session.flush()


def _turn_row(episode_id: str, turn: TurnRecord) -> TurnRow:
    return TurnRow(
        id=turn.id,
        episode_id=episode_id,
        index=turn.index,
        choice=turn.choice,
        digest=turn.digest,
        messages=json.loads(turn.messages),
        answer=json.loads(turn.answer),
        finish_reason=turn.finish_reason,
        prompt_tokens=turn.prompt_tokens,
        completion_tokens=turn.completion_tokens,
        policy_version=turn.policy_version,
        temperature=turn.temperature,
        trainable=turn.trainable,
        untrainable_reason=turn.untrainable_reason,
        forked=turn.forked,
        duration_ms=turn.duration_ms,
        created_at=turn.created_at,
    )


def _step_row(episode_id: str, step: StepRecord) -> StepRow:
    return StepRow(
        episode_id=episode_id,
        index=step.index,
        action=step.action,
        observation=step.observation,
        reward=step.reward,
        terminated=step.terminated,
        truncated=step.truncated,
        info=json.loads(step.info),
        created_at=step.created_at,
    )


def _reward_row(episode_id: str, reward: RewardRecord) -> RewardRow:
    return RewardRow(
        id=reward.id,
        episode_id=episode_id,
        turn_index=reward.turn,
        value=reward.value,
        source=reward.source,
        key=reward.key,
        created_at=reward.created_at,
    )


def _write_nodes(session: Session, episode_id: str, turn: TurnRecord, parent_id: int | None) -> int | None:
    """Store a turn's nodes on top of `parent_id`; return the id of the last one."""
    start = 0
    for position, span in enumerate(turn.spans):
        logprobs = turn.logprobs[start : start + span.tokens]
        parent_id = session.scalar(
            sa.insert(NodeRow).returning(NodeRow.id),
            {
                "episode_id": episode_id,
                "turn_id": turn.id,
                "parent_id": parent_id,
                "sampled": span.sampled,
                "token_ids": pack_ids(turn.token_ids[start : start + span.tokens]),
                "policy_version": span.policy_version,
                "logprobs": None
                if all(x is None for x in logprobs)
                else pack_logprobs([math.nan if x is None else x for x in logprobs]),
                "chain_hash": turn.chain_hash if position == len(turn.spans) - 1 else None,
            },
        )
        start += span.tokens
    return parent_id
