"""Estimates of KL(policy || reference) from the sampled tokens' logprobs alone (joschu.net/blog/kl-approx.html).

With d = clamp(log reference - log policy), for a token sampled by the policy:

    k1 = -d                  unbiased, may be negative
    k2 = d^2 / 2             on policy, its gradient is the gradient of the KL
    k3 = exp(d) - d - 1      unbiased, never negative (GRPO's, arXiv 2402.03300, equation 4)

In the reward, the estimate has no gradient. In the loss it is differentiated, where k1 has no effect on average: its
gradient is the gradient of log p, whose mean is 0.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Estimator = Literal["k1", "k2", "k3"]


def kl_estimate(current: Tensor, reference: Tensor, estimator: Estimator, clamp: float) -> Tensor:
    """Return [M] the KL estimate at each token.

    Args:
        current: [M] the policy's logprobs, with gradient if the estimate needs one.
        reference: [M] the reference's logprobs.
        estimator: the formula.
        clamp: bound of |d| in nats; without it a single token could outweigh the batch.
    """
    gap = (reference.detach() - current).clamp(-clamp, clamp)
    if estimator == "k1":
        return -gap
    if estimator == "k2":
        return gap**2 / 2
    return gap.exp() - gap - 1
