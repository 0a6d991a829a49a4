"""Supervised fine-tuning on demonstrations: masked cross-entropy, each token with a weight.

    loss = -1/N sum w logprob(token)       over the N trained tokens of the whole minibatch; w = 1

A demonstration has no engine logprobs and no group: the mask alone decides what is learned, and rewards play no part.
(AgentGym-RL's trainer also learns the assistant's header and shifts its mask by one token.) AgentEvol and DPO give
the tokens other weights.
"""

from __future__ import annotations

from torch import Tensor


def imitation_loss(current: Tensor, weight: Tensor) -> Tensor:
    """Return [] the weighted cross-entropy of some trained tokens, as a sum.

    Args:
        current: [M] the learner's logprobs, with gradient.
        weight: [M] how strongly each token is learned; below 0 it is unlearned.
    """
    return -(weight * current).sum()
