"""The samples of one optimizer step, packed into rows: a no-grad pass if needed, then forward and backward passes.

Each of several processes has its own samples, dealt whole; credit is computed for all samples before. Gradients of all
rows are summed, and divided by `units` after the last row. A token without a finite logprob under the learner or the
reference counts in no sum and no unit, only in `nonfinite`; a row whose forward pass yields NaN is omitted whole, since
its gradient would poison the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from learner.algorithms.credit import Credit, NoGradPass
from learner.algorithms.loss import LossConfig, policy_loss
from learner.algorithms.normalization import token_weights, units
from learner.algorithms.ppo import value_loss
from learner.algorithms.registry import algorithm_of
from learner.algorithms.sft import imitation_loss
from learner.figures import Sums
from learner.guards import Mismatch
from learner.model.policy import Logprobs, Policy
from learner.model.reference import Reference
from learner.packing import Row, RowLimits, pack
from learner.parallel import distributed
from learner.parallel.deal import deal
from upturn.wire import RunConfig, Sample


class Minibatch:
    """The samples that one optimizer step trains on.

    Args:
        samples: [S] samples of all processes, in the order of their credit.
        policy: the weights to train.
        reference: None if the algorithm needs no reference.
        config: the run's config.
        limits: bounds of a packed row.
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
        """[S] samples of all processes."""
        self._mine = deal(samples, distributed.count())[distributed.number()]
        self._imitates = algorithm_of(config).loss == "imitation"
        packed = pack([samples[i] for i in self._mine], limits, tempered=not self._imitates)
        self.rows = [row.to(policy.device) for row in packed if len(row.target)]
        """The rows of this process."""
        self._missing = max(distributed.gathered(len(self.rows))) - len(self.rows)
        """Passes that train nothing: all processes must gather the weights equally often."""
        self.passes: list[NoGradPass] | None = None
        """Results of `no_grad_pass` for this process's samples; None before it."""
        self._policy = policy
        self._reference = reference
        self._config = config
        self._loss = LossConfig.of(config)

    def no_grad_pass(self) -> list[NoGradPass]:
        """Compute logprobs, the reference's logprobs and values without gradient; [S] in the samples' order."""
        passes: dict[int, NoGradPass] = {}
        for row in self.rows:
            distributed.any_of(False)
            with torch.no_grad():
                now = self._policy.logprobs(row)
            reference = {} if self._reference is None else row.by_sample(self._reference.logprobs(row))
            values = {} if now.state_values is None else row.by_sample(now.state_values)
            for i, old in row.by_sample(now.values).items():
                passes[i] = NoGradPass(old, reference.get(i), values.get(i))
        for _ in range(self._missing):
            distributed.any_of(False)
            with torch.no_grad():
                self._policy.logprobs(_EMPTY)
            if self._reference is not None:
                self._reference.logprobs(_EMPTY)
        self.passes = [passes[i] for i in range(len(self._mine))]
        if distributed.count() == 1:
            return self.passes
        own = {i: one.to("cpu") for i, one in zip(self._mine, self.passes, strict=True)}
        everywhere = {i: one for some in distributed.gathered(own) for i, one in some.items()}
        return [everywhere[i] for i in range(len(self.samples))]

    def mismatch(self) -> Mismatch:
        """Return the mismatch over the tokens of the no-grad pass, on all processes.

        A token that the learner finds impossible counts with the bound; one whose logprob is NaN does not count.
        """
        passes = self.passes or []
        parts = [
            Mismatch.between(row.in_order([s.old for s in passes]), row.engine_logprobs)
            for row in (self.rows if passes else [])
        ]
        return Mismatch.added(distributed.gathered(Mismatch.added(parts)))

    def backward(self, credit: Credit) -> Sums:
        """Accumulate the gradients of this process's rows; return the sums over the rows of all processes.

        Args:
            credit: the credit of this minibatch's samples.
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
        if self.passes is not None:
            usable &= row.in_order([s.usable for s in self.passes])
        elif reference is not None:
            usable &= reference.isfinite()
        broken = bool(current.values.isnan().any() or not usable.any())
        if self._loss.entropy_coef > 0:  # its gradient would poison the rest as well
            broken |= not bool(current.entropy.isfinite().all())
        if distributed.any_of(broken) and distributed.count() > 1:  # all processes repeat the pass together
            current = self._policy.logprobs(_EMPTY if broken else row)
        if broken:
            sums.nonfinite += len(usable)
            if distributed.count() > 1:
                _nothing(current).backward()
            return
        sums.nonfinite += int((~usable).sum())
        sample = row.sample[usable]
        weight = (
            torch.ones(len(sample), device=device) if credit.pairs is not None else token_weights(sample, self._config)
        )
        loss, metrics = self._policy_loss(row, usable, current, reference, credit, weight)
        if credit.returns is not None and current.state_values is not None:
            returns = row.in_order(credit.returns).to(device)[usable]
            error = value_loss(current.state_values[usable], returns, weight)
            sums.losses["value_loss"] += float(error.detach())
            loss = loss + self._config.ppo.value_coef * error
        loss.backward()
        sums.losses["loss"] += float(loss.detach())
        sums.units += units(sample, self._config)
        sums.tokens += len(sample)
        for name, value in metrics.items():
            sums.per_token[name] += float(value)

    def _policy_loss(
        self,
        row: Row,
        usable: Tensor,
        current: Logprobs,
        reference: Tensor | None,
        credit: Credit,
        weight: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the summed loss of a row's m usable tokens, and their sums by metric name.

        Args:
            row: M trained tokens.
            usable: [M] bool, tokens with finite logprobs.
            current: [M] of the policy.
            reference: [M] logprobs of the reference, if the loss needs one.
            credit: the credit of this process's samples.
            weight: [m] weights of the usable tokens.
        """
        logprobs = current.values[usable]
        advantages = row.in_order(credit.advantages).to(self._policy.device)[usable]
        entropy = current.entropy[usable]
        if self._imitates:
            return imitation_loss(logprobs, weight * advantages), {"entropy": entropy.detach().sum()}
        old = logprobs.detach() if self.passes is None else row.in_order([s.old for s in self.passes])[usable]
        out = policy_loss(
            logprobs,
            old,
            row.engine_logprobs[usable],
            advantages,
            row.sample[usable],
            weight,
            self._loss,
            None if reference is None else reference[usable],
            entropy,
        )
        metrics = {
            "entropy": entropy.detach().sum(),
            "mismatch_kl": out.mismatch_kl_sum,
            "mismatch_outliers": out.outlier_sum,
            "clipped_share": out.clipped_sum,
            "capped_share": out.capped_sum,
            "masked_share": out.masked_sum,
        }
        if reference is not None:
            metrics["reference_kl"] = out.reference_kl_sum
        return out.loss, metrics

    def _backward_nothing(self) -> None:
        """Gather the weights as often as `_backward_row` does, and add nothing to gradients or sums."""
        self._reference_now(_EMPTY)
        current = self._policy.logprobs(_EMPTY)
        if distributed.any_of(False):
            current = self._policy.logprobs(_EMPTY)
        _nothing(current).backward()

    def _reference_of(self, row: Row) -> Tensor | None:
        """Return [M] the reference's logprobs of a row, from `no_grad_pass` if it ran; None if the loss needs none."""
        if self.passes is None or self._reference is None or self._imitates:
            return self._reference_now(row)
        return row.in_order([s.reference for s in self.passes if s.reference is not None])

    def _reference_now(self, row: Row) -> Tensor | None:
        if self.passes is not None or self._reference is None or self._imitates:
            return None
        return self._reference.logprobs(row)


def _nothing(current: Logprobs) -> Tensor:
    """Return a loss whose gradient reaches every weight and is 0."""
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
"""A row of two tokens, for passes that train nothing."""
