"""DPO (arXiv 2305.18290, equation 7) on whole episodes: the best of a group against the worst.

    margin = beta ((log p(best) - log ref(best)) - (log p(worst) - log ref(worst)))      sums over sampled tokens
    loss   = -log sigmoid(margin)                                                        mean over pairs

Its gradient is that of `-c log p(best) + c log p(worst)` with c = beta sigmoid(-margin), a constant once the margin is
known. A no-grad pass computes the margin, so best and worst need not share a row: each token of the best episode has
the weight c, each of the worst -c.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch.nn.functional import logsigmoid

from learner.algorithms.algorithm import Algorithm, taken
from learner.algorithms.credit import Credit, NoGradPass
from learner.algorithms.groups import rewards_by_group
from upturn.wire import Sample


class DPO(Algorithm):
    """Weight: c for the better episode of a pair, -c for the worse one."""

    loss = "imitation"
    credit_per_minibatch = True

    def teachable_episodes(self, samples: Sequence[Sample]) -> set[str]:
        """Return the episodes of all pairs."""
        return {episode for pair in self.pairs(samples) for episode in pair}

    def credit(self, samples: Sequence[Sample], passes: Sequence[NoGradPass] | None) -> Credit:
        """Return the weights of the pairs' tokens, with sums of loss and margin over pairs before the update."""
        gains: defaultdict[str, float] = defaultdict(float)  # log p - log ref over all samples of an episode
        for sample, one in zip(samples, taken(passes), strict=True):
            gaps = one.old.double() - taken(one.reference).double()
            gains[sample.episode_id] += float(gaps[one.usable].sum())
        pairs, beta = self.pairs(samples), self.config.dpo_beta
        margins = torch.tensor([beta * (gains[best] - gains[worst]) for best, worst in pairs], dtype=torch.float64)
        weights: dict[str, float] = {}
        for (best, worst), c in zip(pairs, (beta * torch.sigmoid(-margins)).tolist(), strict=True):
            weights |= {best: c, worst: -c}
        return Credit(
            [
                torch.full((len(one.old),), weights.get(sample.episode_id, 0.0))
                for sample, one in zip(samples, taken(passes), strict=True)
            ],
            pairs=len(pairs),
            metrics={
                "dpo_loss": float(-logsigmoid(margins).sum()),
                "dpo_margin": float(margins.sum()),
                "dpo_accuracy": float((margins > 0).sum()),
            },
        )

    def pairs(self, samples: Sequence[Sample]) -> list[tuple[str, str]]:
        """Return (best, worst) of every group whose rewards are at least `dpo_min_gap` apart, by episode id.

        Ties go to the smallest id, so that the same batch gives the same pairs.
        """
        pairs = []
        for rewards in rewards_by_group(samples).values():
            best = min(rewards, key=lambda episode: (-rewards[episode], episode))
            worst = min(rewards, key=lambda episode: (rewards[episode], episode))
            if rewards[best] - rewards[worst] >= self.config.dpo_min_gap:
                pairs.append((best, worst))
        return pairs
