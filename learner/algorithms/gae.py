"""PPO's advantage and value loss: generalised advantage estimation (arXiv 1506.02438), over the sampled tokens.

    delta_t = r_t + d_t V_{t+1} - V_t           V beyond the last sampled token is 0
    A_t     = delta_t + d_t lambda A_{t+1}
    R_t     = A_t + V_t                         what the value learns: 1/2 (V_t - R_t)^2

V_t is the value head's reading of the hidden state that predicted token t. An observation between two turns is no
step: V_{t+1} is the value before the next *sampled* token, which has read it. `d_t` is the turn discount at a turn's
last token, else 1 (`returns.py`).
"""

from __future__ import annotations

import torch
from torch import Tensor


def gae(rewards: Tensor, values: Tensor, factors: Tensor, gae_lambda: float) -> Tensor:
    """Return [m] the advantages of a sample's trained tokens, float64.

    Args:
        rewards: [m] the reward of each token; the episode's is on the last one.
        values: [m] the value before each token.
        factors: [m] d_t.
        gae_lambda: decay a sampled token at a time.
    """
    advantages, following, value_after = [], 0.0, 0.0
    columns = (reversed(column.tolist()) for column in (rewards, values, factors))
    for reward, value, factor in zip(*columns, strict=True):
        following = reward + factor * value_after - value + factor * gae_lambda * following
        value_after = value
        advantages.append(following)
    return torch.tensor(advantages[::-1], dtype=torch.float64)


def value_loss(values: Tensor, returns: Tensor, weight: Tensor) -> Tensor:
    """Return [] the sum of the weighted squared errors of some trained tokens, halved.

    Args:
        values: [M] the value head's, with gradient.
        returns: [M] R_t.
        weight: [M] the tokens' weights in the loss.
    """
    return (weight * (values - returns) ** 2).sum() / 2
