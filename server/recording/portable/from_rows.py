"""Reads episodes from the database as records."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.recording.portable.records import (
    EpisodeRecord,
    RewardRecord,
    SpanRecord,
    StepRecord,
    TrainedRecord,
    TurnRecord,
)
from server.recording.tokens import unpack_ids, unpack_logprobs
from server.recording.transcript import nodes_of
from server.rewards.rules import read_rules
from server.store.tables import BatchRow, EpisodeRow, NodeRow, RewardRow, RunEpisodeRow, StepRow, TurnRow


def read_records(session: Session, episode_ids: Sequence[str]) -> list[EpisodeRecord]:
    """Return the records of some episodes, in the order of their ids."""

    def by_episode(table: type[Any], order: Any) -> dict[str, list[Any]]:
        rows: dict[str, list[Any]] = defaultdict(list)
        for row in session.scalars(sa.select(table).where(table.episode_id.in_(episode_ids)).order_by(order)):
            rows[row.episode_id].append(row)
        return rows

    turns, steps = by_episode(TurnRow, TurnRow.index), by_episode(StepRow, StepRow.index)
    rewards, nodes = by_episode(RewardRow, RewardRow.id), nodes_of(session, list(episode_ids))
    rules, runs = read_rules(session), _runs(session, episode_ids)
    episodes = session.scalars(sa.select(EpisodeRow).where(EpisodeRow.id.in_(episode_ids)).order_by(EpisodeRow.id))
    return [
        EpisodeRecord(
            id=row.id,
            status=row.status,  # type: ignore[arg-type]
            error_class=row.error_class,
            reason=row.reason,
            environment=row.environment,
            task=row.task,
            seed=row.seed,
            horizon=row.horizon,
            group=row.group_key,
            purpose=row.purpose,
            policy_version=row.policy_version,
            trainable=row.trainable,
            success=row.success,
            metadata=_json(row.details),
            opened_at=row.opened_at,
            closed_at=row.closed_at,
            reward=rules.total((s.reward for s in steps[row.id]), ((r.source, r.value) for r in rewards[row.id])),
            turns=_turns(turns[row.id], nodes[row.id]),
            steps=[_step(step) for step in steps[row.id]],
            rewards=[_reward(reward) for reward in rewards[row.id]],
            runs=runs[row.id],
        )
        for row in episodes
    ]


def _runs(session: Session, episode_ids: Sequence[str]) -> dict[str, list[TrainedRecord]]:
    """Return, by episode, the learner steps that trained on it."""
    query = (
        sa.select(RunEpisodeRow, BatchRow)
        .join(BatchRow, BatchRow.id == RunEpisodeRow.batch_id)
        .where(RunEpisodeRow.episode_id.in_(episode_ids), BatchRow.state == "trained")
        .order_by(BatchRow.id)
    )
    runs: dict[str, list[TrainedRecord]] = defaultdict(list)
    for lineage, batch in session.execute(query):
        runs[lineage.episode_id].append(
            TrainedRecord(
                run_id=lineage.run_id,
                step=batch.step,
                policy_version=batch.policy_version,
                advantage=lineage.advantage,
                trained_tokens=lineage.weight,
            )
        )
    return runs


def _turns(turns: Iterable[TurnRow], nodes: Iterable[NodeRow]) -> list[TurnRecord]:
    """Return an episode's turns in the order in which they were recorded.

    Args:
        turns: the rows, in any order.
        nodes: the episode's nodes in recording order; the nodes of one turn are consecutive.
    """
    paths: dict[str, list[NodeRow]] = defaultdict(list)
    for node in nodes:
        paths[node.turn_id].append(node)
    rows = {turn.id: turn for turn in turns}
    turn_at: dict[int | None, int | None] = {None: None}  # Index of the turn that ends at a node.
    records = []
    for turn_id, path in paths.items():
        records.append(_turn(rows[turn_id], path, extends=turn_at[path[0].parent_id]))
        turn_at[path[-1].id] = rows[turn_id].index
    return records


def _turn(turn: TurnRow, path: list[NodeRow], extends: int | None) -> TurnRecord:
    sized = [(node, len(node.token_ids) // 4) for node in path]
    return TurnRecord(
        id=turn.id,
        index=turn.index,
        choice=turn.choice,
        extends=extends,
        forked=turn.forked,
        messages=_json(turn.messages),
        answer=_json(turn.answer),
        finish_reason=turn.finish_reason,
        temperature=turn.temperature,
        prompt_tokens=turn.prompt_tokens,
        completion_tokens=turn.completion_tokens,
        policy_version=turn.policy_version,
        trainable=turn.trainable,
        untrainable_reason=turn.untrainable_reason,
        token_ids=[token for node in path for token in unpack_ids(node.token_ids)],
        loss_mask=[int(node.sampled) for node, size in sized for _ in range(size)],
        logprobs=[x for node, size in sized for x in _logprobs(node, size)],
        spans=[
            SpanRecord(tokens=size, sampled=node.sampled, policy_version=node.policy_version) for node, size in sized
        ],
        digest=turn.digest,
        chain_hash=path[-1].chain_hash,
        duration_ms=turn.duration_ms,
        created_at=turn.created_at,
    )


def _logprobs(node: NodeRow, length: int) -> list[float | None]:
    """Return a node's logprobs, one per token; all None if the engine returned a different number of them."""
    values = unpack_logprobs(node.logprobs or b"")
    return [x if math.isfinite(x) else None for x in values] if len(values) == length else [None] * length


def _step(row: StepRow) -> StepRecord:
    return StepRecord(
        index=row.index,
        action=row.action,
        observation=row.observation,
        reward=row.reward,
        terminated=row.terminated,
        truncated=row.truncated,
        info=_json(row.info),
        created_at=row.created_at,
    )


def _reward(row: RewardRow) -> RewardRecord:
    return RewardRecord(
        id=row.id, value=row.value, source=row.source, turn=row.turn_index, key=row.key, created_at=row.created_at
    )


def _json(value: Any) -> str:
    """Return JSON with readable Unicode, or escaped if it contains a lone surrogate, which UTF-8 cannot encode."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":"))
    return text
