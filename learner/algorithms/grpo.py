"""GRPO (arXiv 2402.03300, section 4.1.2): an episode against the other episodes of its group, that is, of its task.

    A_i = (r_i - mean(r)) / (std(r) + 1e-6)      std with n - 1, as in AgentGym-RL

Groups of fewer than two episodes, groups whose rewards are all equal, and episodes without a group have no advantage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from learner.algorithms.algorithm import EpisodeAlgorithm
from learner.algorithms.groups import comparable_groups
from upturn.wire import Sample

_STD_FLOOR = 1e-6  # From AgentGym-RL.


class GRPO(EpisodeAlgorithm):
    """Advantage: reward minus the group's mean, divided by its standard deviation unless `normalize_std` is false."""

    def episode_credit(self, samples: Sequence[Sample]) -> Mapping[str, float]:
        """Return the advantage of each episode in a comparable group."""
        advantages: dict[str, float] = {}
        for rewards in comparable_groups(samples):
            mean, scale = fmean(rewards.values()), self.scale(list(rewards.values()))
            advantages |= {episode: (reward - mean) / scale for episode, reward in rewards.items()}
        return advantages

    def scale(self, rewards: Sequence[float]) -> float:
        """Return the divisor of a group's advantages."""
        return stdev(rewards) + _STD_FLOOR if self.config.normalize_std else 1.0
