"""REINFORCE++ with a group baseline (arXiv 2501.03262): group means first, then the batch.

    r_i' = r_i - mean(r) of its group           then normalized over the batch, as in `reinforce_pp.py`

Episodes without a group share one baseline, the mean over all of them, so live episodes train alongside played ones. A
group of one episode carries no information and is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from learner.algorithms.groups import rewards_by_group
from learner.algorithms.reinforce_pp import ReinforcePP
from upturn.wire import Sample


class ReinforcePPBaseline(ReinforcePP):
    """Advantage: the token's return of centered rewards, normalized over the batch."""

    def episode_rewards(self, samples: Sequence[Sample]) -> Mapping[str, float]:
        """Return each episode's reward minus its baseline."""
        groups = [rewards for rewards in rewards_by_group(samples).values() if len(rewards) > 1]
        ungrouped = {s.episode_id: s.reward for s in samples if s.group is None}
        return {
            episode: reward - fmean(rewards.values())
            for rewards in (*groups, ungrouped)
            for episode, reward in rewards.items()
        }

    def teachable_episodes(self, samples: Sequence[Sample]) -> set[str]:
        """Return all episodes with a baseline, or none if no reward differs from its baseline."""
        centered = self.episode_rewards(samples)
        return set(centered) if any(centered.values()) else set()
