"""Estimates of KL(policy || reference) from the sampled tokens' logprobs alone (joschu.net/blog/kl-approx.html).

With d = log reference - log policy, for a token sampled by the policy:

    k1 = -d                             unbiased, may be negative
    k2 = d^2 / 2                        on policy, its gradient is the gradient of the KL
    k3 = min(exp(d) - d - 1, clamp)     GRPO's (arXiv 2402.03300, equation 4); never negative, unbiased below its bound

The bound is that of verl (`core_algos.kl_penalty_forward`), of which AgentGym-RL's trainer is a fork: the value of k3
is bounded at 10 nats, and d at 20 before exp, in the loss and in the reward alike; k1 and k2 are not bounded. A token
at the bound adds a constant and has no gradient. With 10 nats, this is every token with d above 2.61 or below -11:
there, only the other tokens pull the policy back. k2 pulls at any distance, in proportion to it.

In the reward, the estimate has no gradient. In the loss it is differentiated, where k1 has no effect on average: its
gradient is the gradient of log p, whose mean is 0.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Estimator = Literal["k1", "k2", "k3"]

_LARGEST_GAP = 20.0
"""Bound of d in nats within k3, so that neither exp nor its gradient leaves the range of float32."""


def kl_estimate(current: Tensor, reference: Tensor, estimator: Estimator, clamp: float) -> Tensor:
    """Return [M] the KL estimate at each token.

    Args:
        current: [M] the policy's logprobs, with gradient if the estimate needs one.
        reference: [M] the reference's logprobs.
        estimator: the formula.
        clamp: bound of k3 in nats; without it a single token could outweigh the batch. Nothing else is bounded by it.
    """
    gap = reference.detach() - current
    if estimator == "k1":
        return -gap
    if estimator == "k2":
        return gap**2 / 2
    gap = gap.clamp(-_LARGEST_GAP, _LARGEST_GAP)
    return (gap.exp() - gap - 1).clamp(max=clamp)
