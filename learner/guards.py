"""Guards: stop a run before its model is ruined.

The mismatch between engine and learner is checked in every batch before the weights change: above its bound they do not
hold the same model. The other figures drift when a policy collapses; each must be beyond its bound for `patience`
learner steps in a row. They come from the steps as the server recorded them, so that a resumed run stops at the same
step as an uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from upturn.wire import Guards, RunStep

LARGEST_MISMATCH_KL = 10.0
"""Bound of the mismatch KL of one token, in nats: 20,000 equal tokens and one that is 9.3 nats off have a mean of
0.0005 with it, and of 0.55 without."""
_OUTLIER = 10.0
"""Factor between the two probabilities of a token beyond which it is an outlier."""
_LARGEST_GAP = 20.0
"""Bound of a difference of logprobs, so that exp stays within the range of float32."""


class RunStopped(RuntimeError):
    """A guard stopped the run; the message is the reason that the run ends with."""


class Collapsed(RunStopped):
    """The policy is collapsing."""


class Mismatch(NamedTuple):
    """How far engine and learner are apart, as sums over tokens."""

    kl: float
    """Of `mismatch_kl`, in nats."""
    outliers: float
    """Number of `outliers`."""
    tokens: int

    @classmethod
    def between(cls, old: Tensor, engine: Tensor) -> Mismatch:
        """Return the sums over tokens [M]; a token whose logprob is NaN does not count."""
        old, engine = old[~old.isnan()], engine[~old.isnan()]
        return cls(float(mismatch_kl(old, engine).sum()), float(outliers(old, engine).sum()), len(old))

    @classmethod
    def added(cls, parts: Sequence[Mismatch]) -> Mismatch:
        """Return the sums over all parts."""
        return cls(sum(p.kl for p in parts), sum(p.outliers for p in parts), sum(p.tokens for p in parts))


def mismatch_kl(old: Tensor, engine: Tensor) -> Tensor:
    """Return [M] the k3 estimate of KL(engine || old), which is 0 where engine and learner agree.

    It is bounded, so that its mean shows how many tokens differ, and not how far the worst one is off. Tokens that
    engine and learner agree on cannot hide a real mismatch, since each of them adds 0 or more.
    """
    mismatch = (old - engine).clamp(-_LARGEST_GAP, _LARGEST_GAP)
    return (mismatch.exp() - mismatch - 1).clamp(max=LARGEST_MISMATCH_KL)


def outliers(old: Tensor, engine: Tensor) -> Tensor:
    """Return [M] bool, tokens whose two probabilities differ by more than a factor of 10."""
    return (old - engine).abs() > math.log(_OUTLIER)


def check_mismatch(mismatch: Mismatch, guards: Guards) -> None:
    """Stop a run whose engine and learner disagree.

    What a single token can add stops nothing, however few tokens there are.

    Args:
        mismatch: of the tokens of a batch or minibatch; nothing is checked without tokens.
        guards: the run's guards.

    Raises:
        RunStopped: the mean is above the bound by more than one token can cause, or is not a number.
    """
    if guards.mismatch_kl is None or not mismatch.tokens:
        return
    if not mismatch.kl - LARGEST_MISMATCH_KL <= guards.mismatch_kl * mismatch.tokens:
        raise RunStopped(
            f"the engine and the learner differ by {mismatch.kl / mismatch.tokens:.3g} nats per token "
            f"(guards.mismatch_kl is {guards.mismatch_kl:g}), and by more than a factor of 10 in "
            f"{mismatch.outliers / mismatch.tokens:.1%} of the tokens, so they hold different weights or sample at "
            "different temperatures; this step changed no weight. Check the engine's dtype and max_staleness"
        )


def check_collapse(steps: Sequence[RunStep], guards: Guards) -> None:
    """Stop a run whose policy is collapsing.

    Args:
        steps: the run's finished steps, oldest first.
        guards: the run's guards.

    Raises:
        Collapsed: a figure was beyond its bound for `patience` steps in a row.
    """
    bounds = (
        ("entropy", guards.min_entropy, -1, "min_entropy", "the policy has stopped exploring"),
        ("repetition", guards.max_repetition, 1, "max_repetition", "the policy repeats itself"),
        ("truncated_share", guards.max_truncated, 1, "max_truncated", "episodes do not end within the horizon"),
        ("reference_kl", guards.max_reference_kl, 1, "max_reference_kl", "the policy has left its reference"),
        ("grad_norm", guards.max_grad_norm, 1, "max_grad_norm", "gradients explode"),
    )
    last = steps[-guards.patience :]
    if len(last) < guards.patience:
        return
    for name, bound, sign, field, meaning in bounds:
        values = [step.metrics.get(name) for step in last]
        if bound is not None and all(value is not None and sign * (value - bound) > 0 for value in values):
            raise Collapsed(
                f"{meaning}: {name} was {values[-1]:.3g} and beyond guards.{field} = {bound:g} for "
                f"{guards.patience} learner steps in a row"
            )
