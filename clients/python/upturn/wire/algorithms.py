"""The registry of algorithms: one line each, with the traits that server and learner need before they load its code.

The name on the line is also the name of its file: `learner/algorithms/NAME.py` holds the class that computes the
credit. The server, which never imports the learner, selects episodes by the traits alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class AlgorithmTraits:
    """The episodes that an algorithm learns from, and its inputs for computing credit."""

    groups: Literal["required", "optional", "ignored"] = "ignored"
    """Whether an episode is compared with the other episodes of its group; `optional` compares it if it has a group."""
    episodes: Literal["all", "successes", "above_threshold", "best_and_worst"] = "all"
    """Which rewarded episodes the server selects: all, successes, rewards above `evol_threshold`, or the best and the
    worst of each group if `dpo_min_gap` apart."""
    off_policy: bool = False
    """Accepts episodes of any age and any author, demonstrations included. Requires the imitation loss, since such
    episodes have no engine logprobs to correct with."""
    by_prompt: bool = False
    """Episodes without a group form one with the episodes that begin with the same prompt."""
    needs_reference: bool = False
    """Credit depends on the reference's logprobs, whatever `kl_coef` is."""
    needs_values: bool = False
    """Credit depends on a value head, which is trained alongside the policy."""

    def __post_init__(self) -> None:
        """Refuse a line that contradicts itself.

        Raises:
            ValueError: `episodes` or `by_prompt` does not fit `groups`.
        """
        if self.selects_singly and self.groups != "ignored":
            raise ValueError(f"episodes={self.episodes!r} judges each episode by itself: groups must be 'ignored'")
        if self.episodes == "best_and_worst" and self.groups != "required":
            raise ValueError("episodes='best_and_worst' compares a group: groups must be 'required'")
        if self.by_prompt and self.groups == "ignored":
            raise ValueError("by_prompt forms groups: groups must not be 'ignored'")

    @property
    def needs_no_grad_pass(self) -> bool:
        """Whether credit depends on a forward pass without gradient before the update."""
        return self.needs_reference or self.needs_values

    @property
    def selects_singly(self) -> bool:
        """Whether the server judges each episode by itself, so that its group does not matter."""
        return self.episodes in ("successes", "above_threshold")


ALGORITHMS: Mapping[str, AlgorithmTraits] = {
    "grpo": AlgorithmTraits(groups="required"),
    "dr_grpo": AlgorithmTraits(groups="required"),
    "rloo": AlgorithmTraits(groups="required"),
    "reinforce_pp": AlgorithmTraits(),
    "reinforce_pp_baseline": AlgorithmTraits(groups="optional"),
    "ppo": AlgorithmTraits(needs_values=True),
    "dpo": AlgorithmTraits(
        groups="required", episodes="best_and_worst", off_policy=True, by_prompt=True, needs_reference=True
    ),
    "agent_evol": AlgorithmTraits(episodes="above_threshold", off_policy=True),
    "sft": AlgorithmTraits(episodes="successes", off_policy=True),
}

if TYPE_CHECKING:
    AlgorithmName = str
else:
    AlgorithmName = Literal[tuple(ALGORITHMS)]
"""A registered name; validation refuses any other."""


def traits_of(name: str) -> AlgorithmTraits:
    """Return the traits of an algorithm.

    Raises:
        ValueError: no algorithm has this name. Only a config that skipped validation can hold one.
    """
    if name not in ALGORITHMS:
        raise ValueError(f"unknown algorithm {name!r}; the known ones are {', '.join(ALGORITHMS)}")
    return ALGORITHMS[name]
