"""AgentEvol (arXiv 2406.04151, section 4.2): play, keep what was rewarded, weigh it, imitate it.

    maximise  E[ r(episode) log p(episode) ]     over episodes with r > threshold
    w_i     = r_i / mean(r)                      mean over the kept episodes, so that the learning rate keeps its sense

The reward is the weight. With rewards of 0 and 1 every kept episode weighs 1: supervised fine-tuning on successes.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from upturn.wire import Sample


def evol_weights(samples: Sequence[Sample], threshold: float) -> dict[str, float]:
    """Return the weight of every episode that is imitated, by episode id.

    Args:
        samples: [S] the samples of a batch; those of one episode share its reward.
        threshold: an episode is kept where its reward is above it; at least 0.
    """
    kept = {s.episode_id: s.reward for s in samples if s.reward > threshold}
    mean = fmean(kept.values()) if kept else 1.0
    return {episode: reward / mean for episode, reward in kept.items()}
