"""The base of every algorithm: which episodes of a batch can teach, and the credit of each of their trained tokens.

    teachable episodes  ──  [ no-grad pass ]  ──  credit of each trained token  ──  loss

Credit is an advantage for the policy-gradient loss (`loss.py`) and a weight for the imitation loss (`sft.py`). It is
computed over the whole batch before the batch is split into minibatches and rows, so the split cannot change it.

A subclass is in the file of its name, `NAME.py`, and derives from one of:

    EpisodeAlgorithm    one number per episode: implement `episode_credit`
    TokenAlgorithm      a number per token, from rewards per token: implement `teachable_episodes` and `credit`
    Algorithm           anything else: implement the same two

Its line in `upturn.wire.algorithms` says what it learns from; `registry.py` finds it by that name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, TypeVar

import torch
from torch import Tensor

from learner.algorithms.credit import Credit, NoGradPass
from learner.algorithms.kl import kl_estimate
from learner.algorithms.returns import turns_after
from upturn.wire import RunConfig, Sample

_T = TypeVar("_T")


class Algorithm(ABC):
    """An algorithm with the settings of one run.

    Args:
        config: the run's config; its `algorithm` is registered.
    """

    loss: ClassVar[Literal["policy_gradient", "imitation"]] = "policy_gradient"
    """`imitation` is a weighted cross-entropy at temperature 1: no engine logprobs, clip, KL or entropy term, and no
    turn discount."""
    credit_per_minibatch: ClassVar[bool] = False
    """Compute credit again before each minibatch, since it depends on the current policy."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.traits = config.traits

    @abstractmethod
    def teachable_episodes(self, samples: Sequence[Sample]) -> set[str]:
        """Return the ids of the episodes that can change the policy, judged by rewards and groups alone.

        Args:
            samples: [S] the samples of a batch; samples of one episode share group and reward.
        """

    @abstractmethod
    def credit(self, samples: Sequence[Sample], passes: Sequence[NoGradPass] | None) -> Credit:
        """Return the credit of each trained token.

        Args:
            samples: [S] the samples of teachable episodes.
            passes: [S] figures of a no-grad pass; None if `needs_no_grad_pass` is false.
        """

    @property
    def needs_reference(self) -> bool:
        """Whether a reference's logprobs are needed."""
        return self.traits.needs_reference or (self.config.kl_coef > 0 and self.loss == "policy_gradient")

    @property
    def needs_no_grad_pass(self) -> bool:
        """Whether credit needs a no-grad pass first."""
        return self.traits.needs_no_grad_pass or self.penalizes_reward

    @property
    def penalizes_reward(self) -> bool:
        """Whether the KL to the reference is subtracted from the reward."""
        return self.config.kl_coef > 0 and self.config.kl_in == "reward" and self.loss == "policy_gradient"

    def penalties(self, samples: Sequence[Sample], passes: Sequence[NoGradPass] | None) -> list[Tensor]:
        """Return [S] of [m] float64: the KL to subtract from each token's reward, 0 unless `penalizes_reward`."""
        if not self.penalizes_reward:
            return [torch.zeros(len(turns_after(s)), dtype=torch.float64) for s in samples]
        c = self.config
        kls = [
            kl_estimate(one.old.double(), taken(one.reference).double(), c.kl_estimator, c.kl_clamp)
            for one in taken(passes)
        ]
        return [c.kl_coef * kl.where(one.usable, 0.0).cpu() for kl, one in zip(kls, taken(passes), strict=True)]


class EpisodeAlgorithm(Algorithm):
    """Gives every trained token of an episode the same credit, apart from the turn discount."""

    @abstractmethod
    def episode_credit(self, samples: Sequence[Sample]) -> Mapping[str, float]:
        """Return the credit of each episode that can teach, by episode id.

        Args:
            samples: [S] the samples of a batch; samples of one episode share group and reward.
        """

    def teachable_episodes(self, samples: Sequence[Sample]) -> set[str]:
        """Return the episodes with credit."""
        return set(self.episode_credit(samples))

    def credit(self, samples: Sequence[Sample], passes: Sequence[NoGradPass] | None) -> Credit:
        """Return credit * turn_discount^(later turns) for each token; 0 if the KL left an episode without credit."""
        by_episode = self.episode_credit(_penalized(samples, self.penalties(samples, passes)))
        discount = self.config.turn_discount if self.loss == "policy_gradient" else 1.0
        return Credit(
            [(by_episode.get(s.episode_id, 0.0) * discount ** turns_after(s).double()).float() for s in samples]
        )


class TokenAlgorithm(Algorithm):
    """Computes credit from rewards per token."""

    def episode_rewards(self, samples: Sequence[Sample]) -> Mapping[str, float]:
        """Return the reward of each episode, by episode id."""
        return {s.episode_id: s.reward for s in samples}

    def token_rewards(self, samples: Sequence[Sample], passes: Sequence[NoGradPass] | None) -> list[Tensor]:
        """Return [S] of [m] float64: minus the KL penalty, and the episode's reward on the last trained token."""
        final = self.episode_rewards(samples)
        rewards = [-penalty for penalty in self.penalties(samples, passes)]
        for sample, of_tokens in zip(samples, rewards, strict=True):
            of_tokens[-1] += final.get(sample.episode_id, 0.0)
        return rewards


def taken(figures: _T | None) -> _T:
    """Return figures of a no-grad pass.

    Raises:
        ValueError: the pass did not compute them, because the traits request less than the algorithm uses.
    """
    if figures is None:
        raise ValueError("the no-grad pass did not compute figures that the algorithm needs: correct its traits")
    return figures


def _penalized(samples: Sequence[Sample], penalties: Sequence[Tensor]) -> list[Sample]:
    """Return the samples with the penalties of all its tokens subtracted from each episode's reward."""
    lost: defaultdict[str, float] = defaultdict(float)
    for sample, penalty in zip(samples, penalties, strict=True):
        lost[sample.episode_id] += float(penalty.sum())
    return [s.model_copy(update={"reward": s.reward - lost[s.episode_id]}) for s in samples]
