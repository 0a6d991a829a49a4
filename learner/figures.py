"""What a step says of itself beside its sums: lineage, and how much the sampled text repeats itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from learner.packing import trained_positions
from upturn.wire import Sample, TrainedEpisode

_REPEATED_TOKENS = 4
"""Length of the runs of tokens that are compared."""


def lineage(samples: Sequence[Sample], advantages: Mapping[str, float]) -> list[TrainedEpisode]:
    """Return each trained episode with its advantage and its trained tokens over all branches.

    Args:
        samples: [S] the trained ones.
        advantages: by episode id; the mean over the episode's tokens where they differ.
    """
    tokens: Counter[str] = Counter()
    for sample in samples:
        tokens[sample.episode_id] += len(trained_positions(sample))
    return [
        TrainedEpisode(episode_id=episode, advantage=advantages[episode], weight=float(count))
        for episode, count in tokens.items()
    ]


def repetition(samples: Sequence[Sample]) -> float:
    """Return the share of runs of four sampled tokens that occurred in the same turn before; 0 where none is as long.

    A policy that collapses into a loop comes near 1. The same action in two turns is no repetition.
    """
    runs, distinct = 0, 0
    for sample in samples:
        for turn in _turns(sample):
            found = [tuple(turn[i : i + _REPEATED_TOKENS]) for i in range(len(turn) - _REPEATED_TOKENS + 1)]
            runs, distinct = runs + len(found), distinct + len(set(found))
    return 1 - distinct / runs if runs else 0.0


def _turns(sample: Sample) -> list[list[int]]:
    """Return the token ids of each of a sample's runs of trained tokens."""
    turns: list[list[int]] = []
    for i, (token, trained) in enumerate(zip(sample.token_ids, sample.loss_mask, strict=True)):
        if trained and (i == 0 or not sample.loss_mask[i - 1]):
            turns.append([])
        if trained:
            turns[-1].append(token)
    return turns
