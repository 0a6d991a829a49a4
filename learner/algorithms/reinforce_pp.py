"""REINFORCE++ (arXiv 2501.03262): no group, the whole batch is the baseline.

    G_t = discounted return of the token (`returns.py`), a KL term in the reward included
    A_t = (G_t - mean(G)) / std(G)              over all trained tokens of the batch, std with n

The baseline form first takes the mean reward of its group from each reward, and then normalises over the batch too.
An episode without a group has the batch's mean alone, so live episodes train beside played ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import torch
from torch import Tensor

from learner.algorithms.groups import rewards_by_group
from upturn.wire import Sample

_STD_FLOOR = 1e-8  # the authors'


def centred_rewards(samples: Sequence[Sample]) -> dict[str, float]:
    """Return each episode's reward less its group's mean, for the baseline form.

    An episode without a group keeps its place against the batch: its baseline is the mean of all such episodes. A
    group of one episode says nothing and is left out.

    Args:
        samples: [S] the samples of a batch; those of one episode share group and reward.
    """
    groups = [rewards for rewards in rewards_by_group(samples).values() if len(rewards) > 1]
    alone = {s.episode_id: s.reward for s in samples if s.group is None}
    return {
        episode: reward - fmean(rewards.values()) for rewards in (*groups, alone) for episode, reward in rewards.items()
    }


def normalised_over_batch(returns: Sequence[Tensor]) -> list[Tensor]:
    """Return the returns with mean 0 and standard deviation 1 over all trained tokens of the batch.

    Args:
        returns: [S] of [m], one tensor per sample.
    """
    together = torch.cat(list(returns))
    scale = together.std(correction=0) + _STD_FLOOR
    return [(one - together.mean()) / scale for one in returns]
