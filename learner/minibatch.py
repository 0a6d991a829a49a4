"""The samples of one optimiser step, packed into rows: looked at without gradient, then run forward and back.

Gradients of all rows add up as sums; `units` says what to divide them by once the last row is done. A token that has no
finite logprob under the learner or the reference is in no sum and no unit, and is counted; a row whose forward pass is
not a number at all is left out whole, since its gradient would poison the rest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from clients.wire import RunConfig, Sample
from learner.algorithms.credit import IMITATING, Credit, Seen
from learner.algorithms.gae import value_loss
from learner.algorithms.loss import LossConfig, mismatch_kl, policy_loss
from learner.algorithms.normalisation import token_weights, units
from learner.algorithms.sft import imitation_loss
from learner.model import Policy
from learner.packing import Row, RowLimits, pack
from learner.reference import Reference


@dataclass
class Sums:
    """What the rows of a minibatch add up to."""

    units: float = 0.0
    """What gradients and losses are divided by."""
    tokens: int = 0
    """Trained tokens, without those left out."""
    nonfinite: int = 0
    """Tokens left out because a logprob was not finite."""
    losses: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Sums in the loss's units, by metric name."""
    per_token: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Sums over tokens, by metric name."""


class Minibatch:
    """Samples that one optimiser step trains on.

    Args:
        samples: [S] in the order in which credit comes.
        policy: the weights to train.
        reference: where the algorithm needs one.
        config: the run's.
        limits: when a row is full.
    """

    def __init__(self, samples: Sequence[Sample], policy: Policy, reference: Reference | None, config: RunConfig,
                 limits: RowLimits) -> None:
        self.samples = samples
        self.rows = [row.to(policy.device) for row in pack(samples, limits) if len(row.target)]
        self.seen: list[Seen] | None = None
        self._policy = policy
        self._reference = reference
        self._config = config
        self._loss = LossConfig.of(config)

    def look(self) -> list[Seen]:
        """Take logprobs, the reference's and values as they are now, without gradient; [S] in the samples' order."""
        found: dict[int, Seen] = {}
        for row in self.rows:
            with torch.no_grad():
                now = self._policy.logprobs(row)
            reference = {} if self._reference is None else row.by_sample(self._reference.logprobs(row))
            values = {} if now.state_values is None else row.by_sample(now.state_values)
            for i, old in row.by_sample(now.values).items():
                found[i] = Seen(old, reference.get(i), values.get(i))
        self.seen = [found[i] for i in range(len(self.samples))]
        return self.seen

    def mismatch_sum(self) -> tuple[float, int]:
        """Return the sum of the mismatch KL over the tokens that were looked at, and their number."""
        total, count = 0.0, 0
        for row in self.rows if self.seen is not None else []:
            gaps = mismatch_kl(row.in_order([s.old for s in self.seen or []]), row.engine_logprobs)
            gaps = gaps[gaps.isfinite()]
            total, count = total + float(gaps.sum()), count + len(gaps)
        return total, count

    def backward(self, credit: Credit) -> Sums:
        """Add up the gradient of every row and return what the rows add up to.

        Args:
            credit: of this minibatch's samples.
        """
        sums = Sums()
        for row in self.rows:
            self._backward_row(row, credit, sums)
        if credit.pairs is not None:
            sums.units = max(1, credit.pairs)
        for name, value in credit.metrics.items():
            sums.losses[name] += value
        return sums

    def _backward_row(self, row: Row, credit: Credit, sums: Sums) -> None:
        device = self._policy.device
        current = self._policy.logprobs(row)
        reference = self._reference_of(row)
        usable = current.values.detach().isfinite()
        if reference is not None:
            usable &= reference.isfinite()
        if current.values.isnan().any() or not usable.any():
            sums.nonfinite += len(usable)
            return
        sums.nonfinite += int((~usable).sum())
        sample = row.sample[usable]
        logprobs = current.values[usable]
        advantages = row.in_order(credit.advantages).to(device)[usable]
        weight = torch.ones_like(advantages) if credit.pairs is not None else token_weights(sample, self._config)
        named: dict[str, Tensor] = {"entropy": current.entropy[usable].sum()}
        if self._config.algorithm in IMITATING:
            loss = imitation_loss(logprobs, weight * advantages)
        else:
            old = logprobs.detach() if self.seen is None else row.in_order([s.old for s in self.seen])[usable]
            out = policy_loss(logprobs, old, row.engine_logprobs[usable], advantages, sample, weight, self._loss,
                              None if reference is None else reference[usable])
            loss = out.loss
            named |= {
                "mismatch_kl": out.mismatch_kl_sum,
                "clipped_share": out.clipped_sum,
                "capped_share": out.capped_sum,
                "masked_share": out.masked_sum,
            }
            if reference is not None:
                named["reference_kl"] = out.reference_kl_sum
        if credit.returns is not None and current.state_values is not None:
            missed = value_loss(current.state_values[usable], row.in_order(credit.returns).to(device)[usable], weight)
            sums.losses["value_loss"] += float(missed.detach())
            loss = loss + self._config.ppo.value_coef * missed
        loss.backward()
        sums.losses["loss"] += float(loss.detach())
        sums.units += units(sample, self._config)
        sums.tokens += len(sample)
        for name, value in named.items():
            sums.per_token[name] += float(value)

    def _reference_of(self, row: Row) -> Tensor | None:
        """Return [M] the reference's logprobs of a row, from the look where there was one."""
        if self._reference is None or self._config.algorithm in IMITATING:
            return None
        if self.seen is None:
            return self._reference.logprobs(row)
        return row.in_order([s.reference for s in self.seen if s.reference is not None])
