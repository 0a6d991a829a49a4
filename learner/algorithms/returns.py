"""Returns: an episode's reward is on its last sampled token, from which it reaches every earlier sampled token.

Observations lie between an agent's turns. They carry no reward and are not steps: returns run over the *sampled* tokens
only, so an episode that ends with an observation loses nothing. (AgentGym-RL puts the reward on the last token, an
observation, and multiplies it by the loss mask: its PPO and REINFORCE++ see no reward at all.)

    G_t = r_t + d_t G_{t+1}      d_t = turn_discount if the next sampled token belongs to another turn, otherwise 1
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from learner.packing import trained_positions
from upturn.wire import Sample

_STD_FLOOR = 1e-8  # From the authors of REINFORCE++.


def turns_after(sample: Sample) -> Tensor:
    """Return [m] the number of the sample's turns after each trained token's own turn.

    A turn is a contiguous stretch of trained tokens, since a prompt always separates two turns. Each branch of a forked
    episode is a sequence of turns of its own that ends with the episode.
    """
    turn, number = 0, []
    for i, trained in enumerate(sample.loss_mask):
        turn += bool(trained and i > 0 and not sample.loss_mask[i - 1])
        number.append(turn)
    return torch.tensor([turn - number[i] for i in trained_positions(sample)])


def discounts(turns: Tensor, turn_discount: float) -> Tensor:
    """Return [m] the discount between each trained token and the next, float64; 1 at the last token.

    Args:
        turns: [m] later turns of each token, from `turns_after`.
        turn_discount: discount from turn to turn.
    """
    ends = torch.ones(len(turns), dtype=torch.bool)
    ends[:-1] = turns[:-1] == turns[1:]
    return torch.where(ends, 1.0, torch.tensor(turn_discount, dtype=torch.float64))


def discounted_returns(rewards: Tensor, factors: Tensor) -> Tensor:
    """Return [m] G_t = r_t + d_t G_{t+1}, float64.

    Args:
        rewards: [m] the reward of each sampled token.
        factors: [m] d_t.
    """
    returns, following = [], 0.0
    for reward, factor in zip(reversed(rewards.tolist()), reversed(factors.tolist()), strict=True):
        following = reward + factor * following
        returns.append(following)
    return torch.tensor(returns[::-1], dtype=torch.float64)


def normalized_over_batch(returns: Sequence[Tensor]) -> list[Tensor]:
    """Return the values with mean 0 and standard deviation 1 over all trained tokens of the batch.

    Args:
        returns: [S] of [m], one tensor per sample.
    """
    together = torch.cat(list(returns))
    scale = together.std(correction=0) + _STD_FLOOR
    return [(one - together.mean()) / scale for one in returns]
