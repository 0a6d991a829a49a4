"""Normalization of the loss: the weight of each token, and the units that a minibatch's sum is divided by.

    token      sum over tokens / N                      N trained tokens of the minibatch      DAPO, arXiv 2503.14476
    sample     sum over samples of their mean / S       S samples of the minibatch             GRPO, arXiv 2402.03300
    constant   sum over tokens / (S * constant_tokens)  long samples weigh more            Dr. GRPO, arXiv 2503.20783

A token's weight and a row's units depend on that row alone; N and S are sums over *all* rows of the minibatch, on all
processes. Gradients are therefore summed first and divided once, and rows of any size give the same result.
"""

from __future__ import annotations

import torch
from torch import Tensor

from upturn.wire import RunConfig


def token_weights(sample: Tensor, config: RunConfig) -> Tensor:
    """Return [M] float32 the weight of each token in the minibatch's sum.

    Args:
        sample: [M] index of each token's sample; a sample is never split over calls.
        config: the run's config.
    """
    if config.loss_normalization == "token":
        return torch.ones(len(sample), device=sample.device)
    if config.loss_normalization == "constant":
        return torch.full((len(sample),), 1 / config.constant_tokens, device=sample.device)
    return 1 / torch.bincount(sample)[sample].float()


def units(sample: Tensor, config: RunConfig) -> int:
    """Return the number of units among the tokens: of tokens, or of samples.

    Args:
        sample: [M] index of each token's sample.
        config: the run's config.
    """
    return len(sample) if config.loss_normalization == "token" else len(sample.unique())
