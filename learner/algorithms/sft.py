"""Supervised fine-tuning on demonstrations: masked cross-entropy.

    loss = -1/N sum logprob(token)         over the N trained tokens of the whole minibatch

A demonstration has no engine logprobs and no group: the mask alone decides what is learned, and rewards play no part.
(AgentGym-RL's trainer also learns the assistant's header and shifts its mask by one token.)
"""

from __future__ import annotations

from torch import Tensor


def sft_loss(current: Tensor, token_count: int) -> Tensor:
    """Return [] the cross-entropy of the trained tokens.

    Args:
        current: [M] the learner's logprobs of the trained tokens, with gradient.
        token_count: trained tokens of the whole minibatch, over all calls.
    """
    return -current.sum() / token_count
