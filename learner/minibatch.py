"""The samples of one optimiser step, packed into rows: looked at without gradient, then run forward and back.

Each of several processes has its own samples, dealt whole; credit is computed for all of them before.
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

from learner.algorithms.credit import Credit, NoGradPass
from learner.algorithms.loss import LossConfig, mismatch_kl, policy_loss
from learner.algorithms.normalization import token_weights, units
from learner.algorithms.ppo import value_loss
from learner.algorithms.registry import algorithm_of
from learner.algorithms.sft import imitation_loss
from learner.model import Logprobs, Policy
from learner.packing import Row, RowLimits, pack
from learner.parallel import distributed
from learner.reference import Reference
from upturn.wire import RunConfig, Sample


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

    @classmethod
    def added(cls, parts: Sequence[Sums]) -> Sums:
        """Return the sums of all processes."""
        total = cls()
        for part in parts:
            total.units += part.units
            total.tokens += part.tokens
            total.nonfinite += part.nonfinite
            for all_of, some in ((total.losses, part.losses), (total.per_token, part.per_token)):
                for name, value in some.items():
                    all_of[name] += value
        return total


class Minibatch:
    """Samples that one optimiser step trains on.

    Args:
        samples: [S] in the order in which credit comes.
        policy: the weights to train.
        reference: where the algorithm needs one.
        config: the run's.
        limits: when a row is full.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        policy: Policy,
        reference: Reference | None,
        config: RunConfig,
        limits: RowLimits,
    ) -> None:
        self.samples = samples
        """[S] of all processes."""
        self._mine = deal(samples, distributed.count())[distributed.number()]
        packed = pack([samples[i] for i in self._mine], limits)
        self.rows = [row.to(policy.device) for row in packed if len(row.target)]
        """This process's."""
        self._missing = max(distributed.gathered(len(self.rows))) - len(self.rows)
        """Passes with nothing to train: every process must gather the weights as often as the others."""
        self.seen: list[NoGradPass] | None = None
        """Of this process's samples."""
        self._policy = policy
        self._reference = reference
        self._config = config
        self._loss = LossConfig.of(config)
        self._imitates = algorithm_of(config).loss == "imitation"

    def look(self) -> list[NoGradPass]:
        """Take logprobs, the reference's and values as they are now, without gradient; [S] in the samples' order."""
        found: dict[int, NoGradPass] = {}
        for row in self.rows:
            distributed.any_of(False)
            with torch.no_grad():
                now = self._policy.logprobs(row)
            reference = {} if self._reference is None else row.by_sample(self._reference.logprobs(row))
            values = {} if now.state_values is None else row.by_sample(now.state_values)
            for i, old in row.by_sample(now.values).items():
                found[i] = NoGradPass(old, reference.get(i), values.get(i))
        for _ in range(self._missing):
            distributed.any_of(False)
            with torch.no_grad():
                self._policy.logprobs(_EMPTY)
            if self._reference is not None:
                self._reference.logprobs(_EMPTY)
        self.seen = [found[i] for i in range(len(self._mine))]
        if distributed.count() == 1:
            return self.seen
        seen = {i: one.to("cpu") for i, one in zip(self._mine, self.seen, strict=True)}
        everywhere = {i: one for some in distributed.gathered(seen) for i, one in some.items()}
        return [everywhere[i] for i in range(len(self.samples))]

    def mismatch_sum(self) -> tuple[float, int]:
        """Return the sum of the mismatch KL over all tokens that were looked at, and their number."""
        total, count = 0.0, 0
        for row in self.rows if self.seen is not None else []:
            gaps = mismatch_kl(row.in_order([s.old for s in self.seen or []]), row.engine_logprobs)
            gaps = gaps[gaps.isfinite()]
            total, count = total + float(gaps.sum()), count + len(gaps)
        everywhere = distributed.gathered((total, count))
        return sum(one for one, _ in everywhere), sum(one for _, one in everywhere)

    def backward(self, credit: Credit) -> Sums:
        """Add up the gradient of every row and return what the rows of all processes add up to.

        Args:
            credit: of this minibatch's samples.
        """
        returns = None if credit.returns is None else [credit.returns[i] for i in self._mine]
        own = Credit([credit.advantages[i] for i in self._mine], returns, credit.pairs)
        sums = Sums()
        for row in self.rows:
            self._backward_row(row, own, sums)
        for _ in range(self._missing):
            self._backward_nothing()
        sums = Sums.added(distributed.gathered(sums))
        if credit.pairs is not None:
            sums.units = max(1, credit.pairs)
        for name, value in credit.metrics.items():
            sums.losses[name] += value
        return sums

    def _backward_row(self, row: Row, credit: Credit, sums: Sums) -> None:
        device = self._policy.device
        reference = self._reference_of(row)
        current = self._policy.logprobs(row)
        usable = current.values.detach().isfinite()
        if reference is not None:
            usable &= reference.isfinite()
        broken = bool(current.values.isnan().any() or not usable.any())
        if distributed.any_of(broken) and distributed.count() > 1:  # all take this pass back, for all go on together
            current = self._policy.logprobs(_EMPTY if broken else row)
        if broken:
            sums.nonfinite += len(usable)
            if distributed.count() > 1:
                _nothing(current).backward()
            return
        sums.nonfinite += int((~usable).sum())
        sample = row.sample[usable]
        logprobs = current.values[usable]
        advantages = row.in_order(credit.advantages).to(device)[usable]
        weight = torch.ones_like(advantages) if credit.pairs is not None else token_weights(sample, self._config)
        named: dict[str, Tensor] = {"entropy": current.entropy[usable].sum()}
        if self._imitates:
            loss = imitation_loss(logprobs, weight * advantages)
        else:
            old = logprobs.detach() if self.seen is None else row.in_order([s.old for s in self.seen])[usable]
            out = policy_loss(
                logprobs,
                old,
                row.engine_logprobs[usable],
                advantages,
                sample,
                weight,
                self._loss,
                None if reference is None else reference[usable],
            )
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

    def _backward_nothing(self) -> None:
        """Go through the weights as often as `_backward_row` does, and add nothing."""
        self._reference_now(_EMPTY)
        current = self._policy.logprobs(_EMPTY)
        if distributed.any_of(False):
            current = self._policy.logprobs(_EMPTY)
        _nothing(current).backward()

    def _reference_of(self, row: Row) -> Tensor | None:
        """Return [M] the reference's logprobs of a row, from the look where there was one."""
        if self.seen is None or self._reference is None or self._imitates:
            return self._reference_now(row)
        return row.in_order([s.reference for s in self.seen if s.reference is not None])

    def _reference_now(self, row: Row) -> Tensor | None:
        if self.seen is not None or self._reference is None or self._imitates:
            return None
        return self._reference.logprobs(row)


def deal(samples: Sequence[Sample], processes: int) -> list[list[int]]:
    """Return the numbers of the samples that each process trains, about as many tokens for each.

    In lexicographic order, as rows are packed: samples that share a beginning mostly stay together.
    """
    order = sorted(range(len(samples)), key=lambda i: samples[i].token_ids)
    total = sum(len(s.token_ids) for s in samples)
    dealt: list[list[int]] = [[] for _ in range(processes)]
    before = 0
    for i in order:
        tokens = len(samples[i].token_ids)
        dealt[(2 * before + tokens) * processes // (2 * total)].append(i)  # where its middle lies
        before += tokens
    return [sorted(numbers) for numbers in dealt]


def _nothing(current: Logprobs) -> Tensor:
    """Return a loss that reaches every weight and changes none."""
    values = current.values.sum()
    return 0 * (values if current.state_values is None else values + current.state_values.sum())


(_EMPTY,) = pack(
    [
        Sample(
            episode_id="",
            group=None,
            token_ids=[0, 0],
            loss_mask=[0, 1],
            logprobs=[0.0, 0.0],
            temperatures=[1.0, 1.0],
            reward=0.0,
        )
    ]
)
"""A row of two tokens, for passes that must be made and train nothing."""
