"""Turns to samples: each sample is a context of the model, and every sampled token is trained once."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from server.recording.tokens import pack_ids, pack_logprobs
from server.store.tables import NodeRow, TurnRow
from server.training.data.branches import samples_of


def recorded(seed: int, count: int) -> tuple[list[NodeRow], list[TurnRow]]:
    """Return an episode whose agent continued, forked or restarted its history at random.

    Some answers were sampled by several versions in turn, with a node each; some are demonstrations. Every token id
    occurs once, so ids identify tokens.
    """
    rng = random.Random(seed)
    nodes: list[NodeRow] = []
    turns: list[TurnRow] = []
    ends: list[int | None] = [None]
    fresh = iter(range(10_000))
    for index in range(count):
        parent = rng.choice(ends[-2:] if rng.random() < 0.7 else ends)
        turn = TurnRow(id=f"t{index}", index=index, temperature=rng.choice([0.7, 1.0]), trainable=rng.random() < 0.8)
        turns.append(turn)
        shown = rng.random() < 0.2
        for sampled in (False, *[True] * (1 if shown else rng.randint(1, 3))):
            ids = [next(fresh) for _ in range(rng.randint(1, 5))]
            nodes.append(
                NodeRow(
                    id=len(nodes) + 1,
                    turn_id=turn.id,
                    parent_id=parent,
                    token_ids=pack_ids(ids),
                    logprobs=pack_logprobs([-0.5 - i for i in ids]) if sampled and not shown else None,
                    sampled=sampled,
                )
            )
            parent = nodes[-1].id
        ends.append(parent)
    return nodes, turns


@settings(derandomize=True, deadline=None, max_examples=80)
@given(st.integers(0, 2**31), st.integers(1, 8))
def test_samples_are_contexts_of_the_model_and_train_every_sampled_token_exactly_once(seed: int, count: int) -> None:
    nodes, turns = recorded(seed, count)
    samples = samples_of("e", "g", 1.0, nodes, turns)
    by_id, by_turn = {n.id: n for n in nodes}, {t.id: t for t in turns}

    def ids_of(node: NodeRow) -> list[int]:
        return [int.from_bytes(node.token_ids[i : i + 4], "little") for i in range(0, len(node.token_ids), 4)]

    def context_of(node: NodeRow) -> list[int]:
        return (context_of(by_id[node.parent_id]) if node.parent_id else []) + ids_of(node)

    trainable = {i: by_turn[n.turn_id] for n in nodes if n.sampled and by_turn[n.turn_id].trainable for i in ids_of(n)}
    trained = Counter(i for s in samples for i, m in zip(s.token_ids, s.loss_mask, strict=True) if m)
    assert trained == Counter(trainable.keys())
    measured = {i for n in nodes if n.logprobs is not None for i in ids_of(n)}
    contexts = [context_of(node) for node in nodes]
    for sample in samples:
        assert sample.token_ids in contexts
        columns = (sample.token_ids, sample.loss_mask, sample.logprobs, sample.temperatures)
        for i, mask, logprob, temperature in zip(*columns, strict=True):
            assert logprob == (-0.5 - i if mask and i in measured else 0.0)
            assert temperature == (trainable[i].temperature if mask else 1.0)
    for context in (context_of(n) for n in nodes if n.sampled and by_turn[n.turn_id].trainable):
        assert any(s.token_ids[: len(context)] == context for s in samples)
