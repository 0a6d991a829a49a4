"""REINFORCE++ (arXiv 2501.03262): no group; the whole batch is the baseline.

    G_t = discounted return of the token (`returns.py`), including a KL term in the reward
    A_t = (G_t - mean(G)) / std(G)              over all trained tokens of the batch, std with n

Since it needs no group, it trains on live traffic, where no task is repeated.
"""

from __future__ import annotations

from collections.abc import Sequence

from learner.algorithms.algorithm import TokenAlgorithm
from learner.algorithms.credit import Credit, NoGradPass
from learner.algorithms.returns import discounted_returns, discounts, normalized_over_batch, turns_after
from upturn.wire import Sample


class ReinforcePP(TokenAlgorithm):
    """Advantage: the token's return, normalized over the batch."""

    def teachable_episodes(self, samples: Sequence[Sample]) -> set[str]:
        """Return all episodes, or none if all rewards are equal."""
        rewards = self.episode_rewards(samples)
        return set(rewards) if len(set(rewards.values())) > 1 else set()

    def credit(self, samples: Sequence[Sample], passes: Sequence[NoGradPass] | None) -> Credit:
        """Return the normalized returns."""
        rewards = self.token_rewards(samples, passes)
        returns = [
            discounted_returns(of_tokens, discounts(turns_after(sample), self.config.turn_discount))
            for sample, of_tokens in zip(samples, rewards, strict=True)
        ]
        return Credit([one.float() for one in normalized_over_batch(returns)])
