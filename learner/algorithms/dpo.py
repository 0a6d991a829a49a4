"""DPO (arXiv 2305.18290, equation 7) on whole episodes: the best of a group against the worst.

    margin = beta ((log p(best) - log ref(best)) - (log p(worst) - log ref(worst)))      sums over sampled tokens
    loss   = -log sigmoid(margin)                                                        mean over pairs

Its gradient is that of `-c log p(best) + c log p(worst)` with c = beta sigmoid(-margin), which is known once the
margin is. So a pass without gradient finds c, and then best and worst need not lie in one row: each token carries c,
or -c, as its weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import logsigmoid

from learner.algorithms.groups import rewards_by_group
from upturn.wire import Sample


@dataclass(frozen=True)
class Preferences:
    """What DPO makes of some pairs; sums are over pairs."""

    weights: dict[str, float]
    """c of each better episode and -c of each worse one, by episode id."""
    loss_sum: float
    margin_sum: float
    right: int
    """Pairs whose margin is above 0."""


def pairs_of(samples: Sequence[Sample], min_gap: float) -> list[tuple[str, str]]:
    """Return (best, worst) of every group whose rewards are at least `min_gap` apart, by episode id.

    Among equals the first by id is taken, so that the same batch gives the same pairs.
    """
    pairs = []
    for rewards in rewards_by_group(samples).values():
        ranked = sorted(rewards, key=lambda episode: (-rewards[episode], episode))
        best = ranked[0]
        worst = min(ranked, key=lambda episode: (rewards[episode], episode))
        if rewards[best] - rewards[worst] >= min_gap:
            pairs.append((best, worst))
    return pairs


def preferences(pairs: Sequence[tuple[str, str]], gains: Mapping[str, float], beta: float) -> Preferences:
    """Return the weights of the pairs' episodes.

    Args:
        pairs: (best, worst) by episode id.
        gains: log p - log ref of each episode, over the trained tokens of all its samples.
        beta: DPO's temperature.
    """
    margins = torch.tensor([beta * (gains[a] - gains[b]) for a, b in pairs], dtype=torch.float64)
    weights: dict[str, float] = {}
    for (best, worst), c in zip(pairs, (beta * torch.sigmoid(-margins)).tolist(), strict=True):
        weights |= {best: c, worst: -c}
    return Preferences(weights, float(-logsigmoid(margins).sum()), float(margins.sum()), int((margins > 0).sum()))
