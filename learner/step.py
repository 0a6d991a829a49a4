"""One learner step: samples in, new weights and named figures out (step 9 of the straight line).

Pack the samples, run each row forward and back while gradients add up, clip, update; once per minibatch. Losses are
divided by the trained tokens of the whole minibatch, so how it fell into rows makes no difference.
"""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from clients.wire import RunConfig, Sample, TrainedEpisode
from learner.algorithms.grpo import grpo_advantages
from learner.algorithms.loss import LossConfig, policy_loss
from learner.algorithms.sft import sft_loss
from learner.model import Policy
from learner.packing import Row, pack, trained_positions


@dataclass(frozen=True)
class StepResult:
    """What one learner step did."""

    trained: bool
    """False where no sample could teach anything: the weights are unchanged."""
    episodes: list[TrainedEpisode]
    """Lineage: the episodes that entered, with advantage and trained tokens."""
    metrics: dict[str, float]
    """Finite figures by name; `_s` seconds, `_tokens` counts, shares and means per trained token."""


class Trainer:
    """A policy with its optimiser.

    Args:
        policy: the weights to train.
        config: the run's.
        max_row_tokens: nodes in a packed row.
    """

    def __init__(self, policy: Policy, config: RunConfig, max_row_tokens: int = 4096) -> None:
        self.policy = policy
        self.config = config
        o = config.optimiser
        self.optimiser = torch.optim.AdamW(
            policy.trainable().values(), lr=o.lr, betas=(o.beta1, o.beta2), weight_decay=o.weight_decay, fused=True
        )
        self._limits = policy.row_limits(max_row_tokens)
        self._loss = LossConfig(clip=config.clip, tis_cap=config.tis_cap, kl_coef=config.kl_coef)
        self._reference = policy.snapshot() if config.kl_coef > 0 else None

    def advantages(self, samples: Sequence[Sample]) -> dict[str, float]:
        """Return the advantage of every episode that can teach something; a demonstration's is 1."""
        if self.config.algorithm == "sft":
            return {s.episode_id: 1.0 for s in samples}
        return grpo_advantages(samples, normalise_std=self.config.normalise_std)

    def step(self, samples: Sequence[Sample], step: int) -> StepResult:
        """Train on the samples of one batch.

        Args:
            samples: [S] with the branches of an episode as separate samples.
            step: global learner step, from 0.

        Raises:
            FloatingPointError: the gradient is not finite; the weights are those of before that update.
        """
        began = time.perf_counter()
        advantages = self.advantages(samples)
        chosen = [s for s in samples if s.episode_id in advantages and any(s.loss_mask)]
        if not chosen:
            return StepResult(False, [], {"trained_tokens": 0.0, "skipped": 1.0})
        minibatches = [_Minibatch(part, advantages, self) for part in self._split(chosen, step)]
        if len(minibatches) > 1:
            for minibatch in minibatches:
                minibatch.remember_old()
        totals: defaultdict[str, float] = defaultdict(float)
        for minibatch in minibatches:
            for name, value in minibatch.backward().items():
                totals[name] += value
            totals["grad_norm"] += self._update(step)
        return StepResult(True, _lineage(chosen, advantages), self._metrics(totals, samples, minibatches, step, began))

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a global step: linear warm-up, then constant."""
        o = self.config.optimiser
        return o.lr * min(1.0, (step + 1) / o.warmup_steps) if o.warmup_steps else o.lr

    def row_reference(self, row: Row) -> Tensor | None:
        """Return [M] the logprobs of the weights that the run began with; None without a KL term."""
        if self._reference is None:
            return None
        with self.policy.holding(self._reference), torch.no_grad():
            return self.policy.logprobs(row).values

    def _split(self, samples: list[Sample], step: int) -> list[list[Sample]]:
        """Split samples into minibatches of whole groups, in an order that seed and step decide."""
        groups: dict[str, list[Sample]] = {}
        for sample in samples:
            groups.setdefault(sample.group or sample.episode_id, []).append(sample)
        units = list(groups.values())
        count = min(self.config.minibatches, len(units))
        if count > 1:
            random.Random(f"{self.config.seed}:{step}").shuffle(units)
        return [[sample for unit in units[i::count] for sample in unit] for i in range(count)]

    def _update(self, step: int) -> float:
        """Clip the gradient, change the weights, and return the gradient's norm before clipping."""
        parameters = list(self.policy.trainable().values())
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.config.optimiser.grad_clip))
        if not torch.isfinite(torch.tensor(norm)):
            self.optimiser.zero_grad(set_to_none=True)
            raise FloatingPointError(f"the gradient of learner step {step} is not finite")
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate(step)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return norm

    def _metrics(
        self,
        totals: Mapping[str, float],
        samples: Sequence[Sample],
        minibatches: Sequence[_Minibatch],
        step: int,
        began: float,
    ) -> dict[str, float]:
        tokens = sum(m.token_count for m in minibatches)
        rows = [row for m in minibatches for row in m.rows]
        unpacked = sum(row.unpacked_tokens for row in rows)
        train_s = time.perf_counter() - began
        rewards = {s.episode_id: s.reward for s in samples}
        return {
            "loss": totals["loss"] / len(minibatches),
            "grad_norm": totals["grad_norm"] / len(minibatches),
            "lr": self.learning_rate(step),
            "mean_reward": fmean(rewards.values()),
            "episodes": float(len(rewards)),
            "trained_tokens": float(tokens),
            "packed_tokens": float(sum(len(row.token_ids) for row in rows)),
            "unpacked_tokens": float(unpacked),
            "rows": float(len(rows)),
            "train_s": train_s,
            "tokens_per_s": unpacked / train_s,
            **{name: value / tokens for name, value in totals.items() if name not in ("loss", "grad_norm")},
        }


class _Minibatch:
    """The samples of one optimiser step, packed."""

    def __init__(self, samples: Sequence[Sample], advantages: Mapping[str, float], trainer: Trainer) -> None:
        self._trainer = trainer
        packed = pack(samples, trainer._limits)
        self.rows = [row.to(trainer.policy.device) for row in packed if len(row.target)]
        self.token_count = sum(len(row.target) for row in self.rows)
        device = trainer.policy.device
        self._advantages = torch.tensor([advantages[s.episode_id] for s in samples], device=device)
        self._old: list[Tensor] | None = None

    def remember_old(self) -> None:
        """Keep the logprobs of the weights as they are before the step's first update."""
        with torch.no_grad():
            self._old = [self._trainer.policy.logprobs(row).values for row in self.rows]

    def backward(self) -> dict[str, float]:
        """Add up the gradient of every row; return sums over tokens by metric name."""
        sums: defaultdict[str, float] = defaultdict(float)
        for i, row in enumerate(self.rows):
            reference = self._trainer.row_reference(row)
            current = self._trainer.policy.logprobs(row)
            if self._trainer.config.algorithm == "sft":
                loss = sft_loss(current.values, self.token_count)
                named = {}
            else:
                old = current.values.detach() if self._old is None else self._old[i]
                out = policy_loss(
                    current.values,
                    old,
                    row.engine_logprobs,
                    self._advantages[row.sample],
                    row.sample,
                    self.token_count,
                    self._trainer._loss,
                    reference,
                )
                loss = out.loss
                named = {
                    "mismatch_kl": out.mismatch_kl_sum,
                    "clipped_share": out.clipped_sum,
                    "capped_share": out.capped_sum,
                    "masked_share": out.masked_sum,
                    "reference_kl": out.reference_kl_sum,
                }
            loss.backward()
            named |= {"loss": loss.detach(), "entropy": current.entropy.sum()}
            for name, value in named.items():
                sums[name] += float(value)
        return sums


def _lineage(samples: Sequence[Sample], advantages: Mapping[str, float]) -> list[TrainedEpisode]:
    """Return each trained episode with its advantage and its trained tokens over all branches."""
    tokens: Counter[str] = Counter()
    for sample in samples:
        tokens[sample.episode_id] += len(trained_positions(sample))
    return [
        TrainedEpisode(episode_id=episode, advantage=advantages[episode], weight=float(count))
        for episode, count in tokens.items()
    ]
