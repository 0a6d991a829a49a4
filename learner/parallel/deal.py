"""Dealing a batch's samples to processes."""

from __future__ import annotations

from collections.abc import Sequence

from upturn.wire import Sample


def deal(samples: Sequence[Sample], processes: int) -> list[list[int]]:
    """Return the indices of the samples that each process trains, with about the same number of tokens for each.

    Samples are dealt in lexicographic order, in which rows are packed: samples with a common prefix mostly stay
    together.
    """
    order = sorted(range(len(samples)), key=lambda i: samples[i].token_ids)
    total = sum(len(s.token_ids) for s in samples)
    dealt: list[list[int]] = [[] for _ in range(processes)]
    before = 0
    for i in order:
        tokens = len(samples[i].token_ids)
        dealt[(2 * before + tokens) * processes // (2 * total)].append(i)  # the share that holds its middle token
        before += tokens
    return [sorted(indices) for indices in dealt]
