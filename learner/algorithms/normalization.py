"""What the sums of a minibatch are divided by.

    token      sum over tokens / N                      N trained tokens of the minibatch            DAPO, 2503.14476
    sample     sum over samples of their mean / S       S samples of the minibatch                   GRPO, 2402.03300
    constant   sum over tokens / (S * constant_tokens)  long samples weigh more                     Dr. GRPO, 2503.20783

A token's weight and the units of a row depend on the row alone; N and S are sums over *all* rows of the minibatch, on
all processes. So gradients are added up first and divided once, and rows of any size give the same result.
"""

from __future__ import annotations

import torch
from torch import Tensor

from upturn.wire import RunConfig


def token_weights(sample: Tensor, config: RunConfig) -> Tensor:
    """Return [M] float32 the weight of each token in the minibatch's sum.

    Args:
        sample: [M] number of the sample that each token belongs to; a sample is never split over calls.
        config: the run's.
    """
    if config.loss_normalisation == "token":
        return torch.ones(len(sample), device=sample.device)
    if config.loss_normalisation == "constant":
        return torch.full((len(sample),), 1 / config.constant_tokens, device=sample.device)
    return 1 / torch.bincount(sample)[sample].float()


def units(sample: Tensor, config: RunConfig) -> int:
    """Return how many units the tokens are: tokens, or samples.

    Args:
        sample: [M] number of the sample that each token belongs to.
        config: the run's.
    """
    return len(sample) if config.loss_normalisation == "token" else len(sample.unique())
