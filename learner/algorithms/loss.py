"""The masked policy-gradient loss: three forms of the ratio, truncated importance sampling, KL and entropy terms.

Each sampled token has three logprobs:

    engine   from the engine at sampling time, recorded with the turn
    old      from the learner, before the first update of this learner step
    current  from the learner, during the update; only this one has a gradient

With one minibatch per step, `old` is `current.detach()`: the ratio is 1 and its gradient is the policy gradient. With
several, `old` comes from a no-grad pass before the first update. Per token (numbers are arXiv's):

    ratio  = exp(current - old)
    ppo      min(ratio * A, clip(ratio) * A)                 clip to [1 - low, 1 + high]                  (1707.06347);
                                                             high > low is DAPO's clip-higher             (2503.14476)
    cispo    stop(min(ratio, 1 + high)) * A * current        every token keeps its gradient               (2506.13585)
    gspo     min(s * A, clip(s) * A)                         s = exp(mean of current - old over a sample) (2507.18071)
    tis    = min(exp(old - engine), tis_cap)                 truncated importance weight, as in V-trace   (1802.01561)
    keep   = 0 if the sample's geometric mean of old/engine leaves [1/cap, cap], otherwise 1
    loss   = sum weight * keep * (-tis * term + kl_coef * KL(current, reference) - entropy_coef * H)

H is the entropy of the whole distribution that the token was sampled from, at its temperature (the bonus of 1602.01783,
which 2509.08755 uses with 0.001); its gradient goes through every logit, not only through the sampled token's.

The loss is a *sum*; `weight` and the division by the minibatch's units (`normalization.py`) turn it into a mean, so
splitting a minibatch into rows changes nothing. The advantage reaches every sampled token and no other, because the
inputs are already gathered by the loss mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from learner.algorithms.kl import Estimator, kl_estimate
from learner.guards import mismatch_kl, outliers
from upturn.wire import RunConfig

_LARGEST_LOG_RATIO = 20.0
"""A ratio beyond e^20 is noise, and close to the range of float32."""


@dataclass(frozen=True)
class LossConfig:
    """Settings of the loss; `RunConfig` gives the sources of the defaults."""

    form: Literal["ppo", "cispo", "gspo"] = "ppo"
    clip: float = 0.2
    clip_high: float | None = None
    """None is `clip`."""
    tis_cap: float = 2.0
    sequence_cap: float = 3.0
    kl_coef: float = 0.0
    """Weight of the KL in the loss."""
    kl_estimator: Estimator = "k3"
    kl_clamp: float = 10.0
    entropy_coef: float = 0.0

    @classmethod
    def of(cls, config: RunConfig) -> LossConfig:
        """Return the settings of a run."""
        return cls(
            form=config.policy_loss,
            clip=config.clip,
            clip_high=config.clip_high,
            tis_cap=config.tis_cap,
            sequence_cap=config.sequence_cap,
            kl_coef=config.kl_coef if config.kl_in == "loss" else 0.0,
            kl_estimator=config.kl_estimator,
            kl_clamp=config.kl_clamp,
            entropy_coef=config.entropy_coef,
        )

    @property
    def lowest(self) -> float:
        """Lower bound of the ratio."""
        return 1 - self.clip

    @property
    def highest(self) -> float:
        """Upper bound of the ratio."""
        return 1 + (self.clip if self.clip_high is None else self.clip_high)


@dataclass(frozen=True)
class LossOutput:
    """The loss and its figures, as sums over the tokens of one call, so that calls add up."""

    loss: Tensor
    """[] weighted sum, with gradient."""
    mismatch_kl_sum: Tensor
    """[] k3 estimate of KL(engine || old), at most `LARGEST_MISMATCH_KL` per token."""
    outlier_sum: Tensor
    """[] number of tokens whose probabilities under engine and old differ by more than a factor of 10."""
    clipped_sum: Tensor
    """[] number of tokens whose ratio was clipped."""
    capped_sum: Tensor
    """[] number of tokens whose importance weight was capped."""
    masked_sum: Tensor
    """[] number of tokens in samples dropped for extreme mismatch."""
    reference_kl_sum: Tensor
    """[] estimate of KL(current || reference); 0 without a reference."""


def policy_loss(
    current: Tensor,
    old: Tensor,
    engine: Tensor,
    advantages: Tensor,
    sample: Tensor,
    weight: Tensor,
    config: LossConfig,
    reference: Tensor | None = None,
    entropy: Tensor | None = None,
) -> LossOutput:
    """Return the loss of some trained tokens.

    Args:
        current: [M] the learner's logprobs now, with gradient.
        old: [M] the learner's logprobs before the first update of this step.
        engine: [M] the engine's logprobs at sampling time.
        advantages: [M] the advantage of each token.
        sample: [M] index of each token's sample, from 0; a sample is never split over calls.
        weight: [M] the weight of each token (`normalization.token_weights`).
        config: settings of the loss.
        reference: [M] logprobs of the reference; required if `kl_coef` is above 0.
        entropy: [M] entropies of the learner's distributions now, with gradient; required if `entropy_coef` is above 0.
    """
    old = old.detach()
    mismatch = (old - engine).clamp(-_LARGEST_LOG_RATIO, _LARGEST_LOG_RATIO)
    keep = (mean_by_sample(mismatch, sample).abs() <= mismatch.new_tensor(config.sequence_cap).log()).to(mismatch.dtype)
    tis = mismatch.exp().clamp(max=config.tis_cap)
    term, clipped = _term(current, old, advantages, sample, config)
    loss = -(weight * keep * tis * term).sum()

    reference_kl = torch.zeros_like(current)
    if reference is not None:
        reference_kl = kl_estimate(current, reference, config.kl_estimator, config.kl_clamp)
        if config.kl_coef > 0:
            loss = loss + config.kl_coef * (weight * keep * reference_kl).sum()
    if entropy is not None and config.entropy_coef > 0:
        loss = loss - config.entropy_coef * (weight * keep * entropy).sum()
    return LossOutput(
        loss=loss,
        mismatch_kl_sum=mismatch_kl(old, engine).sum(),
        outlier_sum=outliers(old, engine).sum(),
        clipped_sum=clipped.sum(),
        capped_sum=(mismatch.exp() > config.tis_cap).sum(),
        masked_sum=(keep == 0).sum(),
        reference_kl_sum=reference_kl.detach().sum(),
    )


def mean_by_sample(values: Tensor, sample: Tensor) -> Tensor:
    """Return [M] the mean of `values` over each token's sample.

    Args:
        values: [M] one value per token.
        sample: [M] index of each token's sample, from 0.
    """
    samples = int(sample.max()) + 1 if len(sample) else 0
    total = values.new_zeros(samples).index_add(0, sample, values)
    count = values.new_zeros(samples).index_add(0, sample, torch.ones_like(values))
    return (total / count.clamp(min=1))[sample]


def _term(
    current: Tensor, old: Tensor, advantages: Tensor, sample: Tensor, config: LossConfig
) -> tuple[Tensor, Tensor]:
    """Return [M] each token's term of the objective, and [M] whether its ratio was clipped."""
    log_ratio = (current - old).clamp(-_LARGEST_LOG_RATIO, _LARGEST_LOG_RATIO)
    if config.form == "cispo":
        ratio = log_ratio.detach().exp()
        return ratio.clamp(max=config.highest) * advantages * current, ratio > config.highest
    ratio = (mean_by_sample(log_ratio, sample) if config.form == "gspo" else log_ratio).exp()
    unclipped = ratio * advantages
    clipped = ratio.clamp(config.lowest, config.highest) * advantages
    return torch.minimum(unclipped, clipped), clipped < unclipped
