"""RLOO (REINFORCE, leave one out; arXiv 2402.14740, equation 8): an episode against the others of its group.

    A_i = r_i - 1/(n-1) sum_{j != i} r_j  =  n/(n-1) (r_i - mean(r))

The baseline is the mean of the *other* episodes, so it does not depend on the episode that it judges. (AgentGym-RL has
the function, but its trainer refuses the algorithm.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from learner.algorithms.algorithm import EpisodeAlgorithm
from learner.algorithms.groups import comparable_groups
from upturn.wire import Sample


class RLOO(EpisodeAlgorithm):
    """Advantage: reward minus the mean reward of the group's other episodes."""

    def episode_credit(self, samples: Sequence[Sample]) -> Mapping[str, float]:
        """Return the advantage of each episode in a comparable group."""
        advantages: dict[str, float] = {}
        for rewards in comparable_groups(samples):
            total, others = sum(rewards.values()), len(rewards) - 1
            advantages |= {episode: reward - (total - reward) / others for episode, reward in rewards.items()}
        return advantages
