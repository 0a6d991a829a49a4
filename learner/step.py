"""One learner step: samples in, new weights and metrics out (step 9 of the straight line).

    check ── which episodes teach ── minibatches ── [ no-grad pass ] ── credit ── forward, backward ── update

For each minibatch the gradients of all rows are summed, divided by the whole minibatch's tokens (or samples, or pairs),
clipped, and applied to the weights. How samples are packed into rows and dealt to processes makes no difference.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch

from learner.algorithms.credit import Credit, NoGradPass
from learner.algorithms.registry import algorithm_of
from learner.checks import BadInput, check_batch
from learner.figures import Sums, lineage, repetition
from learner.guards import Mismatch, check_mismatch
from learner.minibatch import Minibatch
from learner.model.fit import memory_advice
from learner.model.policy import Policy
from learner.model.reference import Reference
from learner.packing import trained_positions
from learner.parallel import distributed
from learner.parallel.sharding import part, whole
from upturn.wire import RunConfig, Sample, TrainedEpisode


@dataclass(frozen=True)
class StepResult:
    """The outcome of one learner step."""

    trained: bool
    """False if no sample could teach anything: the weights are unchanged."""
    episodes: list[TrainedEpisode]
    """Lineage: the trained episodes with advantage and number of trained tokens."""
    metrics: dict[str, float]
    """Finite figures by name; `_s` is seconds, `_tokens` a count; shares and means are per trained token."""


class Trainer:
    """A policy with its optimizer, its reference and, for PPO, its value head.

    Args:
        policy: the weights to train.
        config: the run's config.
        max_row_tokens: nodes in a packed row; None chooses by device.
    """

    def __init__(self, policy: Policy, config: RunConfig, max_row_tokens: int | None = None) -> None:
        self.policy = policy
        self.config = config
        self.algorithm = algorithm_of(config)
        o = config.optimizer
        if config.traits.needs_values:
            policy.add_value_head()
        policy.shard()
        groups = [{"params": list(policy.trainable().values()), "lr": config.lr}]
        if config.traits.needs_values:
            groups.append({"params": list(policy.value_parameters()), "lr": config.ppo.value_lr})
        self.optimizer = torch.optim.AdamW(
            groups, lr=config.lr, betas=(o.beta1, o.beta2), weight_decay=o.weight_decay, fused=True
        )
        self.reference = Reference(policy, config.reference_reset_every) if self.algorithm.needs_reference else None
        self._limits = policy.row_limits(max_row_tokens)

    def continue_with(self, config: RunConfig) -> None:
        """Continue with the config of the campaign's next run; weights, optimizer and reference stay.

        Raises:
            BadInput: the config trains other weights, or needs a value head that there is not.
        """
        before, names = self.config, ("kind", "lora_rank", "lora_alpha")
        changed = [name for name in names if getattr(config, name) != getattr(before, name)]
        if config.traits.needs_values != before.traits.needs_values:
            changed.append("algorithm")
        if changed:
            raise BadInput(
                f"campaign {config.campaign!r} cannot continue with another {' or '.join(changed)} "
                f"({', '.join(f'{name} was {getattr(before, name)}' for name in changed)}): name a new campaign"
            )
        self.config, self.algorithm = config, algorithm_of(config)
        o = config.optimizer
        for group in self.optimizer.param_groups:
            group |= {"betas": (o.beta1, o.beta2), "weight_decay": o.weight_decay}
        if not self.algorithm.needs_reference:
            self.reference = None
        elif self.reference is None:
            self.reference = Reference(self.policy, config.reference_reset_every)
        else:
            self.reference.reset_every = config.reference_reset_every

    def step(self, samples: Sequence[Sample], step: int) -> StepResult:
        """Train on the samples of one batch.

        Args:
            samples: [S] with each branch of an episode as a separate sample.
            step: global learner step, from 0.

        Raises:
            BadInput: the batch cannot be trained on; no weight has changed.
            RunStopped: engine and learner disagree; no weight has changed.
            FloatingPointError: the gradient is not finite; that update is not applied.
        """
        began = time.perf_counter()
        check_batch(samples, self.config, self.policy.vocabulary)
        reset = self.reference is not None and self.reference.advance(step)
        episodes = self.algorithm.teachable_episodes(samples)
        chosen = [s for s in samples if s.episode_id in episodes and trained_positions(s)]
        if not chosen:
            return StepResult(False, [], {"trained_tokens": 0.0, "skipped": 1.0})
        with memory_advice(self._limits.max_tokens):
            minibatches = [
                Minibatch(chunk, self.policy, self.reference, self.config, self._limits)
                for chunk in self._split(chosen, step)
            ]
            done, norms, advantages = self._train(minibatches, step)
        metrics = self._metrics(done, minibatches, samples, step, time.perf_counter() - began)
        metrics |= {"grad_norm": fmean(norms)} | ({"reference_reset": float(reset)} if self.reference else {})
        return StepResult(True, lineage(chosen, advantages), metrics)

    def learning_rate(self, step: int) -> float:
        """Return the learning rate at a global learner step: linear warmup, then constant."""
        return self.config.lr * self._warmup(step)

    def _train(self, minibatches: list[Minibatch], step: int) -> tuple[list[Sums], list[float], dict[str, float]]:
        """Train on all minibatches; return the sums of each, gradient norms, and advantages by episode.

        DPO's weights depend on the current policy, so each of its minibatches gets its own no-grad pass.
        """
        done: list[Sums] = []
        norms: list[float] = []
        advantages: dict[str, float] = {}
        together = [[m] for m in minibatches] if self.algorithm.credit_per_minibatch else [minibatches]
        for some in together:
            passes: list[NoGradPass] = []
            if self.algorithm.needs_no_grad_pass or (len(some) > 1 and self.algorithm.loss == "policy_gradient"):
                passes = [one for minibatch in some for one in minibatch.no_grad_pass()]
                self._check_mismatch(Mismatch.added([m.mismatch() for m in some]))
            samples = [s for m in some for s in m.samples]
            credit = self.algorithm.credit(samples, passes or None)
            advantages |= credit.by_episode(samples)
            for minibatch, its_credit in zip(some, _parts(credit, some), strict=True):
                sums = minibatch.backward(its_credit)
                self._check_mismatch(sums.mismatch)
                norms.append(self._update(step, sums))
                done.append(sums)
        return done, norms, advantages

    def _check_mismatch(self, mismatch: Mismatch) -> None:
        """Stop the run if engine and learner disagree; a demonstration has no engine."""
        if self.algorithm.loss == "imitation":
            return
        try:
            check_mismatch(mismatch, self.config.guards)
        except BaseException:
            self.optimizer.zero_grad(set_to_none=True)
            raise

    def _split(self, samples: list[Sample], step: int) -> list[list[Sample]]:
        """Split samples into minibatches of whole groups, in an order that depends on seed and step."""
        groups: dict[str, list[Sample]] = {}
        for sample in samples:
            groups.setdefault(sample.group or sample.episode_id, []).append(sample)
        units = list(groups.values())
        count = min(self.config.minibatches, len(units))
        if count > 1:
            random.Random(f"{self.config.seed}:{step}").shuffle(units)
        return [[sample for unit in units[i::count] for sample in unit] for i in range(count)]

    def _update(self, step: int, sums: Sums) -> float:
        """Divide the gradient by its units, clip it and update the weights; return its norm before clipping."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = math.nan
        if gradients and sums.units:
            torch._foreach_div_([part(gradient) for gradient in gradients], float(sums.units))
            norm = float(whole(torch.nn.utils.clip_grad_norm_(parameters, self.config.optimizer.grad_clip)))
        if not math.isfinite(norm):
            self.optimizer.zero_grad(set_to_none=True)
            raise FloatingPointError(
                f"the gradient of learner step {step} is not finite ({sums.nonfinite} tokens had no finite logprob): "
                "lower the learning rate, or restart from an earlier version"
            )
        rates = self.config.lr, self.config.ppo.value_lr
        for group, rate in zip(self.optimizer.param_groups, rates, strict=False):
            group["lr"] = rate * self._warmup(step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def _warmup(self, step: int) -> float:
        """Return the factor of the learning rates at a global learner step."""
        steps = self.config.optimizer.warmup_steps
        return min(1.0, (step + 1) / steps) if steps else 1.0

    def _metrics(
        self,
        done: Sequence[Sums],
        minibatches: Sequence[Minibatch],
        samples: Sequence[Sample],
        step: int,
        train_s: float,
    ) -> dict[str, float]:
        """Return the metrics of a step over all processes."""
        tokens, units = sum(d.tokens for d in done), sum(d.units for d in done)
        own = [(1, len(row.token_ids), row.unpacked_tokens) for m in minibatches for row in m.rows]
        everywhere = [counts for some in distributed.gathered(own) for counts in some]
        rows, packed, unpacked = (sum(counts) for counts in zip(*everywhere, strict=True))
        rewards = {s.episode_id: s.reward for s in samples}
        masked = sum(sum(s.loss_mask) - len(trained_positions(s)) for m in minibatches for s in m.samples)
        return {
            **{name: sum(d.losses[name] for d in done) / units for name in done[0].losses},
            **{name: sum(d.per_token[name] for d in done) / tokens for name in done[0].per_token},
            "lr": self.learning_rate(step),
            "mean_reward": fmean(rewards.values()),
            "episodes": float(len(rewards)),
            "repetition": repetition(samples),
            "trained_tokens": float(tokens),
            "nonfinite_tokens": float(masked + sum(d.nonfinite for d in done)),
            "packed_tokens": float(packed),
            "unpacked_tokens": float(unpacked),
            "rows": float(rows),
            "train_s": train_s,
            "tokens_per_s": unpacked / train_s,
        }


def _parts(credit: Credit, minibatches: Sequence[Minibatch]) -> list[Credit]:
    """Return the credit of each minibatch; the minibatches' samples are contiguous and in order."""
    parts, first = [], 0
    for minibatch in minibatches:
        last = first + len(minibatch.samples)
        returns = None if credit.returns is None else credit.returns[first:last]
        parts.append(Credit(credit.advantages[first:last], returns, credit.pairs, credit.metrics))
        first = last
    return parts
