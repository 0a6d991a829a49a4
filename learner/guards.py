"""Guards: stop a run before its model is ruined.

The mismatch between engine and learner is checked in every batch before the weights change: above its bound they do not
hold the same model. The other figures drift when a policy collapses; each must be beyond its bound for `patience`
learner steps in a row. They come from the steps as the server recorded them, so that a resumed run stops at the same
step as an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Sequence

from learner.algorithms.loss import LARGEST_MISMATCH_KL
from learner.figures import Mismatch
from upturn.wire import Guards, RunStep


class RunStopped(RuntimeError):
    """A guard stopped the run; the message is the reason that the run ends with."""


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
        RunStopped: a figure was beyond its bound for `patience` steps in a row.
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
            raise RunStopped(
                f"{meaning}: {name} was {values[-1]:.3g} and beyond guards.{field} = {bound:g} for "
                f"{guards.patience} learner steps in a row"
            )
