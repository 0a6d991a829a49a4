"""The reference of a KL term or of DPO: the weights that the run began with, or the weights at its last reset.

No second model is held. A new adapter's reference is its base with the adapter off; any other reference is a copy of
the trained weights alone, swapped in for a pass. In long training a fixed reference makes an adapter collapse, so every
`reference_reset_every` steps the current policy becomes the reference. The step of the last reset, `anchor`, is a pure
function of the global learner step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from learner.model.policy import Policy
from learner.packing import Row


class Reference:
    """Frozen weights, and their logprobs.

    Args:
        policy: the policy at the beginning of the run.
        reset_every: learner steps between two resets; None never resets.
    """

    def __init__(self, policy: Policy, reset_every: int | None) -> None:
        self._policy = policy
        self.reset_every = reset_every
        self.anchor = 0
        """Number of learner steps after which the policy became the reference; 0 is the run's beginning."""
        self.weights: dict[str, Tensor] | None = None if policy.adapter_is_neutral else policy.snapshot()
        """Trained weights by name; None is the base with its adapter off."""

    def anchor_of(self, step: int) -> int:
        """Return the anchor that applies at a learner step."""
        return 0 if self.reset_every is None else step // self.reset_every * self.reset_every

    def advance(self, step: int) -> bool:
        """Reset if the step begins a new interval; return whether it did."""
        if self.anchor == self.anchor_of(step):
            return False
        self.set(step, self._policy.snapshot())
        return True

    def set(self, step: int, weights: dict[str, Tensor]) -> None:
        """Use weights as the reference that applies at `step`."""
        self.anchor, self.weights = self.anchor_of(step), weights

    def logprobs(self, row: Row) -> Tensor:
        """Return [M] the reference's logprobs of a row's trained tokens."""
        weights = self.weights
        holding = self._policy.without_adapter() if weights is None else self._policy.holding(weights)
        with holding, torch.no_grad():
            return self._policy.logprobs(row).values
