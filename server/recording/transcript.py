"""Reads a whole episode as a message. Blocks on the database, so do not call it from the event loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.errors import NotFound
from server.recording.given_rewards import reward_view
from server.recording.reading.feedback import corrected_by, feedback_of
from server.recording.tokens import unpack_ids, unpack_logprobs
from server.rewards.rules import read_rules
from server.store.chunks import chunks
from server.store.database import Database
from server.store.tables import BatchRow, EpisodeRow, NodeRow, RewardRow, RunEpisodeRow, StepRow, TurnRow
from upturn.wire import EpisodeTraining, EpisodeView, StepView, TurnTokens, TurnView, VersionSpan

Pieces = Callable[[list[int]], list[str]]
"""Returns the text of each token."""


def read_episode(
    database: Database, episode_id: str, *, with_ids: bool = True, pieces: Pieces | None = None
) -> EpisodeView:
    """Return everything recorded of an episode.

    Args:
        database: the database to read.
        episode_id: the episode.
        with_ids: show all token ids of each turn, its mask and logprobs; without, these lists are empty.
        pieces: also show the tokens that each turn adds, with the text that this returns.

    Raises:
        NotFound: there is no such episode.
    """
    with database.read() as session:
        row = session.get(EpisodeRow, episode_id)
        if row is None:
            raise NotFound(f"no episode {episode_id!r}", code="episode_not_found")
        turns = session.scalars(
            sa.select(TurnRow).where(TurnRow.episode_id == episode_id).order_by(TurnRow.index)
        ).all()
        nodes = session.scalars(sa.select(NodeRow).where(NodeRow.episode_id == episode_id).order_by(NodeRow.id)).all()
        steps = session.scalars(
            sa.select(StepRow).where(StepRow.episode_id == episode_id).order_by(StepRow.index)
        ).all()
        rewards = session.scalars(
            sa.select(RewardRow).where(RewardRow.episode_id == episode_id).order_by(RewardRow.id)
        ).all()
        rules = read_rules(session)
        trained = trainings(session, episode_id)
        feedback, shows = feedback_of(session, episode_id), corrected_by(session, episode_id)
    by_id = {node.id: node for node in nodes}
    ends = {node.turn_id: node for node in nodes}  # Ordered by id, so each turn's last node wins.
    indexes = {turn.id: turn.index for turn in turns}
    return EpisodeView(
        id=row.id,
        status=row.status,
        error_class=row.error_class,
        reason=row.reason,
        environment=row.environment,
        task=row.task,
        seed=row.seed,
        horizon=row.horizon,
        group=row.group_key,
        play_id=row.play_id,
        trainable=row.trainable,
        metadata=row.details,
        continues=row.continues_id,
        reward=rules.total((s.reward for s in steps), ((r.source, r.value) for r in rewards)),
        opened_at=row.opened_at,
        closed_at=row.closed_at,
        turns=[_turn(turn, path_to(ends[turn.id], by_id), indexes, row.trainable, with_ids, pieces) for turn in turns],
        steps=[
            StepView(
                index=s.index,
                action=s.action,
                observation=s.observation,
                reward=s.reward,
                terminated=s.terminated,
                truncated=s.truncated,
                info=s.info,
            )
            for s in steps
        ],
        rewards=[reward_view(r) for r in rewards],
        success=row.success,
        policy_version=row.policy_version,
        trained=trained,
        feedback=feedback,
        shows=shows,
    )


def trainings(session: Session, episode_id: str) -> list[EpisodeTraining]:
    """Return every learner step whose batch contained an episode."""
    query = (
        sa.select(
            BatchRow.run_id, BatchRow.step, BatchRow.policy_version, RunEpisodeRow.advantage, RunEpisodeRow.weight
        )
        .join(RunEpisodeRow, RunEpisodeRow.batch_id == BatchRow.id)
        .where(RunEpisodeRow.episode_id == episode_id)
        .order_by(BatchRow.id)
    )
    return [EpisodeTraining(**row._mapping) for row in session.execute(query)]


def mean(values: list[float]) -> float | None:
    """Return the mean, or None (which is not 0) for an empty list."""
    return sum(values) / len(values) if values else None


def path_to(end: NodeRow, by_id: dict[int, NodeRow]) -> list[NodeRow]:
    """Return the nodes from the root to `end`."""
    path = [end]
    while path[-1].parent_id is not None:
        path.append(by_id[path[-1].parent_id])
    return path[::-1]


def nodes_of(session: Session, episode_ids: list[str]) -> dict[str, list[NodeRow]]:
    """Return the nodes of some episodes by episode, in the order they were written."""
    nodes: dict[str, list[NodeRow]] = {episode_id: [] for episode_id in episode_ids}
    for ids in chunks(episode_ids):
        for node in session.scalars(sa.select(NodeRow).where(NodeRow.episode_id.in_(ids)).order_by(NodeRow.id)):
            nodes[node.episode_id].append(node)
    return nodes


def _turn(
    turn: TurnRow,
    path: list[NodeRow],
    indexes: Mapping[str, int],
    may_train: bool,
    with_ids: bool,
    pieces: Pieces | None,
) -> TurnView:
    ids: list[int] = []
    mask: list[int] = []
    logprobs: list[float | None] = []
    own = [node for node in path if node.turn_id == turn.id]
    before = path[: -len(own)]
    for node in path if with_ids else ():
        node_ids = unpack_ids(node.token_ids)
        ids += node_ids
        mask += [int(node.sampled)] * len(node_ids)
        logprobs += [None] * len(node_ids) if node.logprobs is None else unpack_logprobs(node.logprobs)
    return TurnView(
        id=turn.id,
        index=turn.index,
        messages=turn.messages,
        answer=turn.answer,
        prompt_tokens=turn.prompt_tokens,
        completion_tokens=turn.completion_tokens,
        finish_reason=turn.finish_reason,
        policy_version=turn.policy_version,
        policy_versions=_versions(own),
        trainable=turn.trainable,
        untrainable_reason=turn.untrainable_reason,
        token_ids=ids,
        loss_mask=mask,
        logprobs=logprobs,
        created_at=turn.created_at,
        extends=indexes[before[-1].turn_id] if before else None,
        forked=turn.forked,
        temperature=turn.temperature,
        duration_ms=turn.duration_ms,
        tokens=None if pieces is None else _tokens(own, before, may_train and turn.trainable, pieces),
    )


def _tokens(own: list[NodeRow], before: list[NodeRow], may_train: bool, pieces: Pieces) -> TurnTokens:
    """Return the tokens that a turn adds."""
    ids: list[int] = []
    sampled: list[bool] = []
    logprobs: list[float | None] = []
    versions: list[int | None] = []
    for node in own:
        node_ids = unpack_ids(node.token_ids)
        known = [None] * len(node_ids) if node.logprobs is None else unpack_logprobs(node.logprobs)
        ids += node_ids
        sampled += [node.sampled] * len(node_ids)
        logprobs += [x if x is not None and math.isfinite(x) else None for x in known]
        versions += [node.policy_version] * len(node_ids)
    return TurnTokens(
        first=sum(len(node.token_ids) // 4 for node in before),
        ids=ids,
        pieces=pieces(ids),
        sampled=sampled,
        trained=[may_train and one for one in sampled],
        logprobs=logprobs,
        versions=versions,
    )


def _versions(nodes: list[NodeRow]) -> list[VersionSpan]:
    """Return which versions sampled a turn's answer."""
    spans: list[VersionSpan] = []
    for node in nodes:
        if node.policy_version is not None:
            first = spans[-1].first + spans[-1].tokens if spans else 0
            spans.append(VersionSpan(version=node.policy_version, first=first, tokens=len(unpack_ids(node.token_ids))))
    return spans
