"""Supervised fine-tuning on demonstrations, and the imitation loss: masked cross-entropy with a weight per token.

    loss = -1/N sum w logprob(token)       over the N trained tokens of the whole minibatch; w = 1

Logprobs are read at temperature 1, whatever the tokens were sampled at: the model itself is to imitate them.
A demonstration has no engine logprobs and no group: only the mask decides what is learned, and rewards play no part.
(AgentGym-RL's trainer also learns the assistant's header and shifts its mask by one token.) AgentEvol and DPO use other
weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from learner.algorithms.algorithm import EpisodeAlgorithm
from upturn.wire import Sample


class SFT(EpisodeAlgorithm):
    """Weight: 1."""

    loss = "imitation"

    def episode_credit(self, samples: Sequence[Sample]) -> Mapping[str, float]:
        """Return 1 for every episode."""
        return {s.episode_id: 1.0 for s in samples}


def imitation_loss(current: Tensor, weight: Tensor) -> Tensor:
    """Return [] the weighted cross-entropy of some trained tokens, as a sum.

    Args:
        current: [M] the learner's logprobs, with gradient.
        weight: [M] how strongly each token is learned; a negative weight unlearns it.
    """
    return -(weight * current).sum()
