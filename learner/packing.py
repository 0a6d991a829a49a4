"""Packing: the samples of a batch as token tries, so that common prefixes are computed once.

The episodes of a group begin with the same prompt, and the branches of a forked episode share its history. A row holds
such samples as one trie in depth-first order:

    sample 0   P0 P1 A0 A1            nodes     P0 P1 A0 A1 B0 B1
    sample 1   P0 P1 B0 B1            depth      0  1  2  3  2  3     (the position ids)
                                      end        6  6  4  4  6  6     (one past the node's subtree)

In this order node j is an ancestor of node i, or i itself, exactly when `j <= i < end[j]`; these are the positions that
node i attends to (`model/attention.py`). Each trained token of each sample points at its *parent* node, whose hidden
state predicts it. A node that two samples share is computed once, and trained only by the samples whose mask includes
it. The result equals a forward pass over each sample alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from learner.checks import BadBatch
from upturn.wire import Sample


@dataclass(frozen=True)
class RowLimits:
    """Bounds of a packed row."""

    max_tokens: int = 4096
    """Nodes in a row; a longer sample gets a row of its own."""


@dataclass(frozen=True)
class Row:
    """One forward pass: N nodes of a trie and the M tokens trained from them."""

    token_ids: Tensor
    """[N]"""
    depth: Tensor
    """[N] position ids."""
    end: Tensor
    """[N] one past the last node of the node's subtree."""
    parent: Tensor
    """[M] node whose hidden state predicts the trained token."""
    target: Tensor
    """[M] ids of the trained tokens."""
    engine_logprobs: Tensor
    """[M] the engine's logprobs at sampling time."""
    temperature: Tensor
    """[M] temperatures at which the tokens' logprobs are read: of sampling, or 1."""
    sample: Tensor
    """[M] index in the packed batch of the sample that trains the token; each sample lies in one row."""
    unpacked_tokens: int
    """Sum of the lengths of the row's samples: the tokens that a trainer with one row per sample computes."""

    def in_order(self, by_sample: Sequence[Tensor]) -> Tensor:
        """Return [M] the values of the row's trained tokens, since a row holds its samples one after another.

        Args:
            by_sample: [S] of [m], the values of each sample's trained tokens.
        """
        return torch.cat([by_sample[i] for i in self.sample.unique_consecutive().tolist()])

    def by_sample(self, values: Tensor) -> dict[int, Tensor]:
        """Return the pieces [m] of `values` [M] that belong to each sample of the row, by the sample's index."""
        indices, counts = self.sample.unique_consecutive(return_counts=True)
        return dict(zip(indices.tolist(), values.split(counts.tolist()), strict=True))

    def to(self, device: torch.device) -> Row:
        """Return the row with its tensors on `device`."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return Row(**moved, unpacked_tokens=self.unpacked_tokens)


def pack(samples: Sequence[Sample], limits: RowLimits = RowLimits(), *, tempered: bool = True) -> list[Row]:
    """Pack samples into rows; every sample lies in exactly one row.

    In lexicographic order the longest prefix that a sample shares with any other is shared with a neighbor, and
    appending its unshared end keeps the nodes in depth-first order. Rows are filled up: attention costs time by visible
    positions, so a sample never costs more in a shared row than alone.

    Args:
        samples: [S] of any lengths; `Row.sample` refers to their order.
        limits: bounds of a row.
        tempered: read logprobs at the sampling temperatures, as the engine reported them. An imitation loss reads
            them at 1: what it imitates need not have been sampled, and it raises the likelihood of the model itself.
    """
    rows: list[Row] = []
    open_row = _OpenRow(tempered)
    for index in sorted(range(len(samples)), key=lambda i: samples[i].token_ids):
        sample = samples[index]
        grown = len(open_row.token_ids) + len(sample.token_ids) - open_row.shared(sample)
        if open_row.token_ids and grown > limits.max_tokens:
            rows.append(open_row.closed())
            open_row = _OpenRow(tempered)
        open_row.append(index, sample)
    if open_row.token_ids:
        rows.append(open_row.closed())
    return rows


def trained_positions(sample: Sample) -> list[int]:
    """Return the positions that a sample trains: its mask is 1 and the engine's logprob is finite.

    A token without a finite logprob counts in no mask and no denominator; the rest of its sample trains.

    Raises:
        BadBatch: the first token is trained, but nothing predicts it.
    """
    positions = [i for i, trained in enumerate(sample.loss_mask) if trained and math.isfinite(sample.logprobs[i])]
    if positions and positions[0] == 0:
        raise BadBatch(f"the first token of episode {sample.episode_id} is trained, but nothing predicts it")
    return positions


class _OpenRow:
    """A row to which samples are appended in lexicographic order."""

    def __init__(self, tempered: bool) -> None:
        self._tempered = tempered
        self.token_ids: list[int] = []
        self.depth: list[int] = []
        self.end: list[int] = []
        self.trained: list[tuple[int, int, float, float, int]] = []
        self.unpacked_tokens = 0
        self._last: list[int] = []
        self._path: list[int] = []
        """Nodes of the last appended sample."""

    def shared(self, sample: Sample) -> int:
        """Return the number of leading tokens that a sample shares with the last appended one."""
        pairs = zip(self._last, sample.token_ids, strict=False)
        return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(self._last), len(sample.token_ids)))

    def append(self, index: int, sample: Sample) -> None:
        """Append a sample's unshared end as new nodes, and its trained tokens."""
        shared, first_new = self.shared(sample), len(self.token_ids)
        new = sample.token_ids[shared:]
        path = self._path[:shared] + list(range(first_new, first_new + len(new)))
        self.token_ids += new
        self.depth += range(shared, len(sample.token_ids))
        self.end += [0] * len(new)
        for node in path:
            self.end[node] = len(self.token_ids)
        for i in trained_positions(sample):
            temperature = sample.temperatures[i] if self._tempered else 1.0
            self.trained.append((path[i - 1], sample.token_ids[i], sample.logprobs[i], temperature, index))
        self.unpacked_tokens += len(sample.token_ids)
        self._last, self._path = sample.token_ids, path

    def closed(self) -> Row:
        """Return the finished row."""
        parent, target, logprobs, temperature, sample = zip(*self.trained, strict=True) if self.trained else [()] * 5
        return Row(
            token_ids=torch.tensor(self.token_ids),
            depth=torch.tensor(self.depth),
            end=torch.tensor(self.end),
            parent=torch.tensor(parent, dtype=torch.long),
            target=torch.tensor(target, dtype=torch.long),
            engine_logprobs=torch.tensor(logprobs, dtype=torch.float32),
            temperature=torch.tensor(temperature, dtype=torch.float32),
            sample=torch.tensor(sample, dtype=torch.long),
            unpacked_tokens=self.unpacked_tokens,
        )
