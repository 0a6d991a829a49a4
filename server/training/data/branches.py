"""Turns to samples: each leaf of an episode's tree gives one root-to-leaf token sequence (step 6).

A sampled token shared by several leaves is trained only in the first of them, so that it counts exactly once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.recording.tokens import unpack_ids, unpack_logprobs
from server.recording.transcript import nodes_of, path_to
from server.rewards.totals import rewards_of
from server.store.chunks import chunks
from server.store.tables import EpisodeRow, NodeRow, TurnRow
from upturn.wire import Sample


def samples(
    session: Session, episode_ids: list[str], *, by_prompt: bool = False, rewards: Mapping[str, float] | None = None
) -> list[Sample]:
    """Return the samples of some episodes, in the order of the ids; erased episodes are left out.

    Args:
        session: database session.
        episode_ids: the episodes.
        by_prompt: group the episodes without a group by the prompt they begin with, as their selection did.
        rewards: the rewards that the batch was selected with; other episodes get their current reward.
    """
    prompts = first_prompts(session, episode_ids) if by_prompt else {}
    rows = {
        e.id: e
        for ids in chunks(episode_ids)
        for e in session.scalars(sa.select(EpisodeRow).where(EpisodeRow.id.in_(ids)))
    }
    nodes: dict[str, list[NodeRow]] = nodes_of(session, episode_ids)
    turns = _turns_of(session, episode_ids)
    used = rewards_of(session, [i for i in episode_ids if i not in (rewards or {})]) | dict(rewards or {})
    return [
        sample
        for i in episode_ids
        if i in rows
        for sample in samples_of(i, rows[i].group_key or prompts.get(i), used[i] or 0.0, nodes[i], turns[i])
    ]


def samples_of(
    episode_id: str, group: str | None, reward: float, nodes: Sequence[NodeRow], turns: Sequence[TurnRow]
) -> list[Sample]:
    """Return the samples of one episode; branches without trainable tokens are left out.

    A two-turn episode whose second prompt extends the first gives one sample; an episode whose agent rewrote its
    history gives one per branch.
    """
    by_id = {node.id: node for node in nodes}
    parents = {node.parent_id for node in nodes}
    by_turn = {turn.id: turn for turn in turns}
    trained: set[int] = set()
    samples = []
    for leaf in (node for node in nodes if node.id not in parents):
        ids: list[int] = []
        mask: list[int] = []
        logprobs: list[float] = []
        temperatures: list[float] = []
        for node in path_to(leaf, by_id):
            node_ids = unpack_ids(node.token_ids)
            turn = by_turn[node.turn_id]
            train = node.sampled and turn.trainable and node.id not in trained
            trained.add(node.id)
            ids += node_ids
            mask += [int(train)] * len(node_ids)
            known = node.logprobs is not None and train
            logprobs += unpack_logprobs(node.logprobs) if known and node.logprobs else [0.0] * len(node_ids)
            temperatures += [turn.temperature if train else 1.0] * len(node_ids)
        if any(mask):
            samples.append(
                Sample(
                    episode_id=episode_id,
                    group=group,
                    token_ids=ids,
                    loss_mask=mask,
                    logprobs=logprobs,
                    temperatures=temperatures,
                    reward=reward,
                )
            )
    return samples


def first_prompts(session: Session, episode_ids: list[str]) -> dict[str, str]:
    """Return a name for each episode's first prompt, by episode id; equal token ids have equal names."""
    roots = sa.select(NodeRow.episode_id, NodeRow.token_ids).where(NodeRow.parent_id.is_(None))
    return {
        episode_id: f"prompt-{sha256(token_ids).hexdigest()[:32]}"
        for ids in chunks(episode_ids)
        for episode_id, token_ids in session.execute(
            roots.where(NodeRow.episode_id.in_(ids)).order_by(NodeRow.id.desc())
        )
    }


def _turns_of(session: Session, episode_ids: list[str]) -> dict[str, list[TurnRow]]:
    turns: dict[str, list[TurnRow]] = {i: [] for i in episode_ids}
    for ids in chunks(episode_ids):
        for turn in session.scalars(sa.select(TurnRow).where(TurnRow.episode_id.in_(ids)).order_by(TurnRow.index)):
            turns[turn.episode_id].append(turn)
    return turns
