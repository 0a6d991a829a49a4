"""GRPO's advantage (arXiv 2402.03300, section 4.1.2) and Dr. GRPO's (arXiv 2503.20783).

An episode is compared with the other episodes of its group, that is, of the same task:

    GRPO      A_i = (r_i - mean(r)) / (std(r) + 1e-6)     std with n - 1, as in AgentGym-RL
    Dr. GRPO  A_i =  r_i - mean(r)

A group of fewer than two episodes, or whose rewards are all equal, says nothing and is left out, as is an episode
without a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev

from learner.algorithms.groups import comparable_groups
from upturn.wire import Sample

_STD_FLOOR = 1e-6  # the reference's


def grpo_advantages(samples: Sequence[Sample], *, normalise_std: bool = True) -> dict[str, float]:
    """Return the advantage of every episode that has one, by episode id.

    Args:
        samples: [S] the samples of a batch; those of one episode share group and reward.
        normalise_std: True is GRPO, False is Dr. GRPO.
    """
    advantages: dict[str, float] = {}
    for rewards in comparable_groups(samples):
        mean, scale = fmean(rewards.values()), 1.0
        if normalise_std:
            scale = stdev(rewards.values()) + _STD_FLOOR
        advantages |= {episode: (reward - mean) / scale for episode, reward in rewards.items()}
    return advantages
