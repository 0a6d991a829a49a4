"""AgentEvol (arXiv 2406.04151, section 4.2): play, keep the rewarded episodes, weight them by reward, imitate them.

    maximize  E[ r(episode) log p(episode) ]     over episodes with r > evol_threshold
    w_i     = r_i / mean(r)                      mean over the kept episodes, which keeps the learning rate's scale

With rewards of 0 and 1 every kept episode has weight 1: supervised fine-tuning on successes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from learner.algorithms.algorithm import EpisodeAlgorithm
from upturn.wire import Sample


class AgentEvol(EpisodeAlgorithm):
    """Weight: reward relative to the mean reward of the kept episodes."""

    loss = "imitation"

    def episode_credit(self, samples: Sequence[Sample]) -> Mapping[str, float]:
        """Return the weight of each episode above the threshold, which is at least 0."""
        kept = {s.episode_id: s.reward for s in samples if s.reward > self.config.evol_threshold}
        mean = fmean(kept.values()) if kept else 1.0
        return {episode: reward / mean for episode, reward in kept.items()}
