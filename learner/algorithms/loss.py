"""The masked policy-gradient loss: PPO's clip, truncated importance sampling, an optional KL term.

Three logprobs of each sampled token meet here:

    engine   the engine's, at sampling time, recorded with the turn
    old      the learner's, before this learner step's first update
    current  the learner's, now; only this one has a gradient

With one minibatch per step `old` is `current.detach()`: the ratio is 1 and its gradient is the policy gradient. With
more, `old` comes from a pass without gradient before the first update. The loss is the sum over trained tokens,
divided by their count over the *whole* minibatch, so that splitting it into rows changes nothing (numbers are
arXiv's):

    ratio  = exp(current - old)
    weight = min(exp(old - engine), tis_cap)                truncated importance weight, as in V-trace (1802.01561)
    loss   = -1/N sum keep * weight * min(ratio * A, clip(ratio, 1 - eps, 1 + eps) * A)            PPO (1707.06347)
             + kl_coef/N sum keep * (exp(d) - d - 1),  d = clamp(reference - current, -10, 10)      k3 (2402.03300)

The advantage reaches every sampled token and no other: what enters is already gathered by the loss mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_LARGEST_LOG_RATIO = 20.0
"""Beyond e^20 a ratio is noise, and float32 is not far from its end."""
_LARGEST_KL_LOG_RATIO = 10.0
"""The reference's clamp of the k3 term."""


@dataclass(frozen=True)
class LossConfig:
    """What shapes the loss."""

    clip: float = 0.2
    """PPO's range (the paper's)."""
    tis_cap: float = 2.0
    """Cap of the weight between engine and learner (verl's and TRL's usual value)."""
    kl_coef: float = 0.0
    sequence_cap: float = 3.0
    """A sample is dropped where its geometric mean ratio old/engine leaves [1/cap, cap] (TRL's default)."""


@dataclass(frozen=True)
class LossOutput:
    """The loss and what it saw; sums are over this call's tokens, so that several calls add up."""

    loss: Tensor
    """[] with gradient; already divided by the minibatch's count of trained tokens."""
    mismatch_kl_sum: Tensor
    """[] k3 estimate of KL(engine || old)."""
    clipped_sum: Tensor
    """[] tokens whose ratio the clip held back."""
    capped_sum: Tensor
    """[] tokens whose importance weight the cap held back."""
    masked_sum: Tensor
    """[] tokens of samples dropped for extreme mismatch."""
    reference_kl_sum: Tensor
    """[] k3 estimate of KL(current || reference); 0 without a reference."""


def policy_loss(
    current: Tensor,
    old: Tensor,
    engine: Tensor,
    advantages: Tensor,
    sample: Tensor,
    token_count: int,
    config: LossConfig,
    reference: Tensor | None = None,
) -> LossOutput:
    """Return the loss of some trained tokens.

    Args:
        current: [M] the learner's logprobs now, with gradient.
        old: [M] the learner's logprobs before the first update of this step.
        engine: [M] the engine's logprobs at sampling time.
        advantages: [M] the advantage of each token's episode.
        sample: [M] number of the sample that each token belongs to, from 0; a sample is never split over calls.
        token_count: trained tokens of the whole minibatch, over all calls.
        config: what shapes the loss.
        reference: [M] logprobs of the weights that the run began with; needed where `kl_coef` is above 0.
    """
    old = old.detach()
    mismatch = (old - engine).clamp(-_LARGEST_LOG_RATIO, _LARGEST_LOG_RATIO)
    keep = _samples_that_match(mismatch, sample, config.sequence_cap)
    weight = mismatch.exp().clamp(max=config.tis_cap)

    ratio = (current - old).clamp(-_LARGEST_LOG_RATIO, _LARGEST_LOG_RATIO).exp()
    free, held = ratio * advantages, ratio.clamp(1 - config.clip, 1 + config.clip) * advantages
    loss = -(keep * weight * torch.minimum(free, held)).sum() / token_count

    reference_kl = torch.zeros_like(current)
    if reference is not None:
        gap = (reference.detach() - current).clamp(-_LARGEST_KL_LOG_RATIO, _LARGEST_KL_LOG_RATIO)
        reference_kl = gap.exp() - gap - 1
        loss = loss + config.kl_coef * (keep * reference_kl).sum() / token_count
    return LossOutput(
        loss=loss,
        mismatch_kl_sum=(mismatch.exp() - mismatch - 1).sum(),
        clipped_sum=(held < free).sum(),
        capped_sum=(mismatch.exp() > config.tis_cap).sum(),
        masked_sum=(keep == 0).sum(),
        reference_kl_sum=reference_kl.detach().sum(),
    )


def _samples_that_match(mismatch: Tensor, sample: Tensor, cap: float) -> Tensor:
    """Return [M] 1.0 where the token's sample has a geometric mean ratio within [1/cap, cap], else 0.0.

    Args:
        mismatch: [M] log ratio between learner and engine.
        sample: [M] number of each token's sample.
        cap: the bound.
    """
    samples = int(sample.max()) + 1 if len(sample) else 0
    total = mismatch.new_zeros(samples).index_add(0, sample, mismatch)
    count = mismatch.new_zeros(samples).index_add(0, sample, torch.ones_like(mismatch))
    mean = total / count.clamp(min=1)
    within = mismatch.new_tensor(cap).log() >= mean.abs()
    return within.to(mismatch.dtype)[sample]
