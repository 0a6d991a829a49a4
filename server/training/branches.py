"""Turns to samples: each leaf of an episode's tree is one root-to-leaf token sequence (step 6).

A sampled token that several leaves share is trained in the first of them only, so that it counts exactly once.
"""

from __future__ import annotations

from collections.abc import Sequence

from server.recording.tokens import unpack_ids, unpack_logprobs
from server.recording.transcript import path_to
from server.store.tables import NodeRow, TurnRow
from upturn.wire import Sample


def samples_of(
    episode_id: str, group: str | None, reward: float, nodes: Sequence[NodeRow], turns: Sequence[TurnRow]
) -> list[Sample]:
    """Return the samples of one episode; branches on which nothing is trainable give none.

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
