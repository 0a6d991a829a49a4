"""The features that the audit compares: of each episode a number, or None where it has no meaning. Pure functions.

Features of behavior that is never good need no reward to be an objection. The others may rise for a good reason, so
they count only where the reward pays for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from statistics import median
from typing import Literal

from server.training.judging.audit.episodes import EpisodeFigures
from server.training.settings import GateSettings

Kind = Literal["never good", "length", "component"]
LEAST_SOLVED = 5
"""Solved episodes of an environment below which a typical reward of a success is unknown, and tasks that both versions
solve below which solved episodes alone show nothing."""
LONGEST = math.log1p(100)
"""Tolerated rise with which a length is not audited."""
NOTHING = 1e-9
"""Rewards below this are left from subtracting the named parts."""


@dataclass(frozen=True, slots=True)
class Feature:
    """What may rise, and by how much."""

    name: str
    value: Callable[[EpisodeFigures], float | None]
    """The feature of an episode; for a length, its logarithm."""
    tolerated: float
    """Tolerated rise, of `value` itself."""
    kind: Kind = "never good"
    solved_only: bool = False
    """Whether failed episodes do not count: there, progress takes turns."""
    paid: Callable[[EpisodeFigures], float | None] = lambda _: None
    """What the reward pays for it, if it is a component."""

    def shown(self, value: float) -> float:
        """Return a value in the unit of the evidence."""
        return math.exp(value) if self.kind == "length" else value

    def shown_rise(self, rise: float) -> float:
        """Return a rise in the unit of the evidence."""
        return math.expm1(rise) if self.kind == "length" else rise


def features_of(
    rule: GateSettings, champion: Sequence[EpisodeFigures], candidate: Sequence[EpisodeFigures]
) -> list[Feature]:
    """Return the features that are audited in an environment."""
    episodes = (*champion, *candidate)
    typical = typical_success(episodes)
    listed = [
        Feature("no_action", _share_of_turns(_without_action), rule.audit_no_action),
        Feature("broken_calls", _share_of_turns(_broken_calls), rule.audit_broken_calls),
        Feature("avoided_calls", _share_of_turns(attrgetter("avoided_calls")), rule.audit_avoided_calls),
        Feature("questions", _share_of_turns(attrgetter("questions")), rule.audit_questions),
        Feature("repetition", attrgetter("repetition"), rule.audit_repetition),
        Feature("paid_failures", partial(_paid_failure, typical=typical), rule.audit_paid_failures),
        Feature("answer_tokens", _log_tokens, math.log1p(rule.audit_answer_tokens), "length"),
        Feature("turns", _log_turns, math.log1p(rule.audit_turns), "length", solved_only=True),
        *_components(rule, episodes),
    ]
    return [feature for feature in listed if feature.tolerated < (LONGEST if feature.kind == "length" else 1)]


def typical_success(episodes: Sequence[EpisodeFigures]) -> float | None:
    """Return the median reward of solved episodes, or None of too few."""
    rewards = [episode.reward for episode in episodes if episode.success and episode.reward is not None]
    return median(rewards) if len(rewards) >= LEAST_SOLVED else None


def _share_of_turns(count: Callable[[EpisodeFigures], int | None]) -> Callable[[EpisodeFigures], float | None]:
    """Return the feature that is the share of an episode's turns; None of an episode without turns."""

    def share(episode: EpisodeFigures) -> float | None:
        of = count(episode)
        return None if of is None or not episode.turns else min(1.0, max(0.0, of / episode.turns))

    return share


def _without_action(episode: EpisodeFigures) -> int:
    return episode.turns - (episode.steps - episode.invalid_steps)


def _broken_calls(episode: EpisodeFigures) -> int | None:
    return episode.bad_calls if episode.tools else None


def _log_tokens(episode: EpisodeFigures) -> float | None:
    return math.log(max(1.0, episode.tokens / episode.turns)) if episode.turns else None


def _log_turns(episode: EpisodeFigures) -> float | None:
    return math.log(episode.turns) if episode.turns else None


def _paid_failure(episode: EpisodeFigures, typical: float | None) -> float | None:
    reward = episode.reward
    return None if reward is None or typical is None else float(not episode.success and reward >= typical)


def _components(rule: GateSettings, episodes: Sequence[EpisodeFigures]) -> list[Feature]:
    """Return the share of each component, if there are several.

    The share is of the sum of the components' sizes, and of the usual sum of a solved episode if that is larger: else
    any component would carry all of an unsolved episode.
    """
    names = sorted({n for episode in episodes for n, value in episode.rewards.items() if abs(value) > NOTHING})
    if len(names) < 2:
        return []
    of_solved = [_size(episode) for episode in episodes if episode.success and episode.rewards]
    least = median(of_solved) if len(of_solved) >= LEAST_SOLVED else 0.0
    return [
        Feature(
            f"component:{name}",
            partial(_share, name=name, least=least),
            rule.audit_component,
            "component",
            paid=partial(_pay, name=name),
        )
        for name in names
    ]


def _pay(episode: EpisodeFigures, name: str) -> float | None:
    return episode.rewards.get(name, 0.0) if episode.rewards else None


def _size(episode: EpisodeFigures) -> float:
    return sum(abs(value) for value in episode.rewards.values())


def _share(episode: EpisodeFigures, name: str, least: float) -> float | None:
    size = max(_size(episode), least)
    if not episode.rewards:
        return None
    return abs(episode.rewards.get(name, 0.0)) / size if size > NOTHING else 0.0
