"""What every trained token of a batch is worth: the one place that knows all algorithms by name.

    which episodes can teach anything  ──  [ a pass without gradient ]  ──  a number for each of their trained tokens

The number is an advantage in `loss.py`, and a weight in `sft.py`. It is computed over the whole batch before anything
is split into minibatches and rows, so the splitting cannot change it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import torch
from torch import Tensor

from learner.algorithms.agent_evol import evol_weights
from learner.algorithms.dpo import pairs_of, preferences
from learner.algorithms.gae import gae
from learner.algorithms.grpo import grpo_advantages
from learner.algorithms.kl import kl_estimate
from learner.algorithms.reinforce_pp import centred_rewards, normalised_over_batch
from learner.algorithms.returns import discounted_returns, discounts, turns_after
from learner.algorithms.rloo import rloo_advantages
from upturn.wire import RunConfig, Sample

IMITATING = frozenset({"sft", "agent_evol", "dpo"})
"""Algorithms whose loss is a weighted cross-entropy: no engine's logprobs, no clip."""


@dataclass(frozen=True)
class Seen:
    """What a pass without gradient says of a sample's trained tokens."""

    old: Tensor
    """[m] the learner's logprobs before the first update."""
    reference: Tensor | None = None
    """[m] the reference's logprobs."""
    values: Tensor | None = None
    """[m] the value head's."""

    def to(self, device: str) -> Seen:
        """Return the same on another device."""
        reference, values = (None if found is None else found.to(device) for found in (self.reference, self.values))
        return Seen(self.old.to(device), reference, values)


@dataclass(frozen=True)
class Credit:
    """What each trained token is worth."""

    advantages: list[Tensor]
    """[S] of [m] float32, a tensor for each sample."""
    returns: list[Tensor] | None = None
    """[S] of [m] float32, what a value head shall learn."""
    pairs: int | None = None
    """DPO's pairs, over which its loss is a mean; None: the tokens decide."""
    metrics: dict[str, float] = field(default_factory=dict)

    def by_episode(self, samples: Sequence[Sample]) -> dict[str, float]:
        """Return the mean over each episode's trained tokens: what lineage keeps."""
        values: defaultdict[str, list[float]] = defaultdict(list)
        for sample, advantages in zip(samples, self.advantages, strict=True):
            values[sample.episode_id] += advantages.tolist()
        return {episode: fmean(found) for episode, found in values.items()}


def needs_a_look(config: RunConfig) -> bool:
    """Whether the algorithm needs a pass without gradient before tokens have a worth."""
    return config.algorithm in ("ppo", "dpo") or penalises_reward(config)


def penalises_reward(config: RunConfig) -> bool:
    """Whether the KL to the reference is taken off the reward."""
    return config.kl_coef > 0 and config.kl_in == "reward" and config.algorithm not in IMITATING


def needs_reference(config: RunConfig) -> bool:
    """Whether the logprobs of a reference are needed."""
    return config.algorithm == "dpo" or (config.kl_coef > 0 and config.algorithm not in IMITATING)


def teaching(config: RunConfig, samples: Sequence[Sample]) -> set[str]:
    """Return the episodes that can teach the algorithm anything, from their rewards and groups alone."""
    match config.algorithm:
        case "grpo" | "dr_grpo":
            return set(grpo_advantages(samples))
        case "rloo":
            return set(rloo_advantages(samples))
        case "reinforce_pp":
            rewards = {s.episode_id: s.reward for s in samples}
            return set(rewards) if len(set(rewards.values())) > 1 else set()
        case "reinforce_pp_baseline":
            centred = centred_rewards(samples)
            return set(centred) if any(centred.values()) else set()
        case "agent_evol":
            return set(evol_weights(samples, config.evol_threshold))
        case "dpo":
            return {episode for pair in pairs_of(samples, config.dpo_min_gap) for episode in pair}
        case "ppo" | "sft":
            return {s.episode_id for s in samples}


def credit_of(config: RunConfig, samples: Sequence[Sample], seen: Sequence[Seen] | None) -> Credit:
    """Return what each trained token of the samples is worth.

    Args:
        config: the run's.
        samples: [S] of the episodes that teach.
        seen: [S] what a pass without gradient saw, where `needs_a_look`.
    """
    turns = [turns_after(s) for s in samples]
    if config.algorithm == "dpo":
        return _preferred(config, samples, _given(seen))
    penalties = _penalties(config, samples, seen)
    if config.algorithm in ("ppo", "reinforce_pp", "reinforce_pp_baseline"):
        return _token_credit(config, samples, turns, penalties, seen)
    worth = _episode_worth(config, _penalised(samples, penalties))
    discount = 1.0 if config.algorithm in IMITATING else config.turn_discount
    return Credit([(worth[s.episode_id] * discount ** t.double()).float() for s, t in zip(samples, turns, strict=True)])


def _episode_worth(config: RunConfig, samples: Sequence[Sample]) -> Mapping[str, float]:
    """Return one number for each episode; without variance left, 0."""
    match config.algorithm:
        case "grpo" | "dr_grpo":
            normalise = config.normalise_std and config.algorithm == "grpo"
            worth = grpo_advantages(samples, normalise_std=normalise)
        case "rloo":
            worth = rloo_advantages(samples)
        case "agent_evol":
            return evol_weights(samples, config.evol_threshold)
        case _:
            return {s.episode_id: 1.0 for s in samples}
    return {s.episode_id: 0.0 for s in samples} | worth


def _token_credit(
    config: RunConfig,
    samples: Sequence[Sample],
    turns: Sequence[Tensor],
    penalties: Sequence[Tensor],
    seen: Sequence[Seen] | None,
) -> Credit:
    """Return the credit of algorithms that look at each token: PPO and both forms of REINFORCE++."""
    final = {s.episode_id: s.reward for s in samples}
    if config.algorithm == "reinforce_pp_baseline":
        final = centred_rewards(samples)
    raw, returns = [], []
    for i, (sample, turn) in enumerate(zip(samples, turns, strict=True)):
        rewards, factors = -penalties[i], discounts(turn, config.turn_discount)
        rewards[-1] += final.get(sample.episode_id, 0.0)
        if config.algorithm == "ppo":
            values = _there(_given(seen)[i].values).double().cpu()
            raw.append(gae(rewards, values, factors, config.ppo.gae_lambda))
            returns.append((raw[-1] + values).float())
        else:
            raw.append(discounted_returns(rewards, factors))
    advantages = [one.float() for one in normalised_over_batch(raw)]
    return Credit(advantages, returns if config.algorithm == "ppo" else None)


def _preferred(config: RunConfig, samples: Sequence[Sample], seen: Sequence[Seen]) -> Credit:
    """Return DPO's credit."""
    gains: defaultdict[str, float] = defaultdict(float)
    for sample, saw in zip(samples, seen, strict=True):
        gains[sample.episode_id] += float((saw.old.double() - _there(saw.reference).double()).sum())
    pairs = pairs_of(samples, config.dpo_min_gap)
    found = preferences(pairs, gains, config.dpo_beta)
    advantages = [
        torch.full((len(saw.old),), found.weights.get(s.episode_id, 0.0)) for s, saw in zip(samples, seen, strict=True)
    ]
    return Credit(
        advantages,
        pairs=len(pairs),
        metrics={"dpo_loss": found.loss_sum, "dpo_margin": found.margin_sum, "dpo_accuracy": float(found.right)},
    )


def _penalties(config: RunConfig, samples: Sequence[Sample], seen: Sequence[Seen] | None) -> list[Tensor]:
    """Return [S] of [m] float64 what the KL takes off each token's reward; zeros without one in the reward."""
    if not penalises_reward(config):
        return [torch.zeros(len(turns_after(s)), dtype=torch.float64) for s in samples]
    return [
        config.kl_coef
        * kl_estimate(saw.old.double(), _there(saw.reference).double(), config.kl_estimator, config.kl_clamp).cpu()
        for saw in _given(seen)
    ]


def _penalised(samples: Sequence[Sample], penalties: Sequence[Tensor]) -> list[Sample]:
    """Return the samples with each episode's reward less its tokens' penalties."""
    lost: defaultdict[str, float] = defaultdict(float)
    for sample, penalty in zip(samples, penalties, strict=True):
        lost[sample.episode_id] += float(penalty.sum())
    return [s.model_copy(update={"reward": s.reward - lost[s.episode_id]}) for s in samples]


def _given(seen: Sequence[Seen] | None) -> Sequence[Seen]:
    if seen is None:
        raise ValueError("the algorithm needs a pass without gradient, and there was none")
    return seen


def _there(found: Tensor | None) -> Tensor:
    if found is None:
        raise ValueError("the algorithm needs figures that the pass without gradient did not take")
    return found
