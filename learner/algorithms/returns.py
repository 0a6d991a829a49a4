"""Where an episode's reward goes: to its last sampled token, and from there to every sampled token before.

What the environment says lies between an agent's turns. It carries no reward and is no step: returns run over the
*sampled* tokens alone, so an episode that ends with an observation loses nothing. (AgentGym-RL puts the reward on the
last token, an observation, and multiplies it by the loss mask: its PPO and REINFORCE++ see no reward at all.)

    G_t = r_t + d_t G_{t+1}      d_t = turn_discount where the next sampled token is of another turn, else 1
"""

from __future__ import annotations

import torch
from torch import Tensor

from learner.packing import trained_positions
from upturn.wire import Sample


def turns_after(sample: Sample) -> Tensor:
    """Return [m] how many turns of the sample come after each trained token's own.

    A turn is a run of trained tokens: between two turns there is always a prompt. A branch is a line of turns of its
    own, which ends with the episode.
    """
    turn, number = 0, []
    for i, trained in enumerate(sample.loss_mask):
        turn += bool(trained and i > 0 and not sample.loss_mask[i - 1])
        number.append(turn)
    return torch.tensor([turn - number[i] for i in trained_positions(sample)])


def discounts(turns: Tensor, turn_discount: float) -> Tensor:
    """Return [m] the factor between each trained token and the next, float64; the last token's is 1.

    Args:
        turns: [m] what `turns_after` says of the sample.
        turn_discount: factor from turn to turn.
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
