"""PPO's advantage and value loss: generalized advantage estimation (arXiv 1506.02438) over the sampled tokens.

    delta_t = r_t + d_t V_{t+1} - V_t           V after the last sampled token is 0
    A_t     = delta_t + d_t lambda A_{t+1}      then normalized over the batch, as in `reinforce_pp.py`
    R_t     = A_t + V_t                         before normalization; target of the value: 1/2 (V_t - R_t)^2

V_t is the value head's output for the hidden state that predicts token t. An observation between two turns is not a
step: V_{t+1} is the value before the next *sampled* token, which has read the observation. `d_t` is the turn discount
at a turn's last token, otherwise 1 (`returns.py`). PPO's clipped ratio (arXiv 1707.06347) is in `loss.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from learner.algorithms.algorithm import TokenAlgorithm, taken
from learner.algorithms.credit import Credit, NoGradPass
from learner.algorithms.returns import discounts, normalized_over_batch, turns_after
from upturn.wire import Sample


class PPO(TokenAlgorithm):
    """Advantage: generalized advantage estimate, normalized over the batch."""

    def teachable_episodes(self, samples: Sequence[Sample]) -> set[str]:
        """Return all episodes: equal rewards still teach the value head."""
        return {s.episode_id for s in samples}

    def credit(self, samples: Sequence[Sample], passes: Sequence[NoGradPass] | None) -> Credit:
        """Return advantages and the value head's targets."""
        advantages, returns = [], []
        for sample, rewards, one in zip(samples, self.token_rewards(samples, passes), taken(passes), strict=True):
            values = taken(one.values).double().cpu()
            factors = discounts(turns_after(sample), self.config.turn_discount)
            advantages.append(gae(rewards, values, factors, self.config.ppo.gae_lambda))
            returns.append((advantages[-1] + values).float())
        return Credit([one.float() for one in normalized_over_batch(advantages)], returns)


def gae(rewards: Tensor, values: Tensor, factors: Tensor, gae_lambda: float) -> Tensor:
    """Return [m] the advantages of a sample's trained tokens, float64.

    Args:
        rewards: [m] the reward of each token; the episode's reward is on the last one.
        values: [m] the value before each token.
        factors: [m] d_t.
        gae_lambda: decay per sampled token.
    """
    advantages, following, value_after = [], 0.0, 0.0
    columns = (reversed(column.tolist()) for column in (rewards, values, factors))
    for reward, value, factor in zip(*columns, strict=True):
        following = reward + factor * value_after - value + factor * gae_lambda * following
        value_after = value
        advantages.append(following)
    return torch.tensor(advantages[::-1], dtype=torch.float64)


def value_loss(values: Tensor, returns: Tensor, weight: Tensor) -> Tensor:
    """Return [] half the sum of the weighted squared errors.

    Args:
        values: [M] outputs of the value head, with gradient.
        returns: [M] R_t.
        weight: [M] the tokens' weights in the loss.
    """
    return (weight * (values - returns) ** 2).sum() / 2
