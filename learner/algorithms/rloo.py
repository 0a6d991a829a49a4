"""RLOO's advantage: REINFORCE, leave one out (arXiv 2402.14740, equation 8).

An episode is compared with the mean of the *other* episodes of its group, so that the baseline does not depend on
what it judges:

    A_i = r_i - 1/(n-1) sum_{j != i} r_j  =  n/(n-1) (r_i - mean(r))

(AgentGym-RL has the function, but its trainer refuses the algorithm.)
"""

from __future__ import annotations

from collections.abc import Sequence

from learner.algorithms.groups import comparable_groups
from upturn.wire import Sample


def rloo_advantages(samples: Sequence[Sample]) -> dict[str, float]:
    """Return the advantage of every episode that has one, by episode id.

    Args:
        samples: [S] the samples of a batch; those of one episode share group and reward.
    """
    advantages: dict[str, float] = {}
    for rewards in comparable_groups(samples):
        total, others = sum(rewards.values()), len(rewards) - 1
        advantages |= {episode: reward - (total - reward) / others for episode, reward in rewards.items()}
    return advantages
