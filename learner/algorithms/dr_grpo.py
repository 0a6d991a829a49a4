"""Dr. GRPO (arXiv 2503.20783): GRPO without the division by the standard deviation.

    A_i = r_i - mean(r)

Dividing gives a group with nearly equal rewards as much weight as a group whose rewards differ a lot.
"""

from __future__ import annotations

from collections.abc import Sequence

from learner.algorithms.grpo import GRPO


class DrGRPO(GRPO):
    """Advantage: reward minus the group's mean."""

    def scale(self, rewards: Sequence[float]) -> float:
        """Return 1."""
        return 1.0
