"""Estimates of KL(policy || reference) from the sampled tokens' logprobs alone (joschu.net/blog/kl-approx.html).

With d = clamp(log reference - log policy), for a token that the policy sampled:

    k1 = -d                  unbiased, may be negative
    k2 = d^2 / 2             its gradient is the KL's own on policy
    k3 = exp(d) - d - 1      unbiased, never negative (GRPO's, arXiv 2402.03300, equation 4)

In the reward, the estimate is a number without gradient. In the loss, it is differentiated: there k1 has no effect on
average, since its gradient is that of log p alone.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Estimator = Literal["k1", "k2", "k3"]


def kl_estimate(current: Tensor, reference: Tensor, estimator: Estimator, clamp: float) -> Tensor:
    """Return [M] the estimate at each token.

    Args:
        current: [M] the policy's logprobs, with gradient where the estimate shall have one.
        reference: [M] the reference's logprobs.
        estimator: which.
        clamp: bound of |d| in nats; beyond it a single token would outweigh the batch.
    """
    gap = (reference.detach() - current).clamp(-clamp, clamp)
    if estimator == "k1":
        return -gap
    if estimator == "k2":
        return gap**2 / 2
    return gap.exp() - gap - 1
