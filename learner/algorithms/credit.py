"""The credit of each trained token, and the figures of a no-grad pass that it may depend on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from torch import Tensor

from upturn.wire import Sample


@dataclass(frozen=True)
class NoGradPass:
    """Figures of one sample's trained tokens from a forward pass without gradient."""

    old: Tensor
    """[m] the learner's logprobs before the first update."""
    reference: Tensor | None = None
    """[m] the reference's logprobs."""
    values: Tensor | None = None
    """[m] outputs of the value head."""

    @property
    def usable(self) -> Tensor:
        """[m] bool, tokens whose logprobs are finite; the others add nothing to a KL or a margin, and train nothing."""
        usable = self.old.isfinite()
        return usable if self.reference is None else usable & self.reference.isfinite()

    def to(self, device: str) -> NoGradPass:
        """Return a copy on another device."""
        reference, values = (None if one is None else one.to(device) for one in (self.reference, self.values))
        return NoGradPass(self.old.to(device), reference, values)


@dataclass(frozen=True)
class Credit:
    """The credit of each trained token of a batch."""

    advantages: list[Tensor]
    """[S] of [m] float32, one tensor per sample; weights of the cross-entropy for the imitation loss."""
    returns: list[Tensor] | None = None
    """[S] of [m] float32, targets of the value head."""
    pairs: int | None = None
    """Number of DPO's pairs, over which its loss is a mean; None: `loss_normalization` decides."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Sums in the loss's units, by metric name."""

    def by_episode(self, samples: Sequence[Sample]) -> dict[str, float]:
        """Return each episode's mean over its trained tokens, which lineage records.

        Args:
            samples: [S] the samples that the credit belongs to.
        """
        values: defaultdict[str, list[float]] = defaultdict(list)
        for sample, advantages in zip(samples, self.advantages, strict=True):
            values[sample.episode_id] += advantages.tolist()
        return {episode: fmean(its_values) for episode, its_values in values.items()}
