"""Whether a canary is worse than the champion: the sequential test of `regression.py`. Pure functions.

The episodes of both versions are compared in the order of their opening. Each episode is an estimate of the difference:
the candidate's reward minus a center, over the probability q that an episode gets the candidate; or minus the
champion's reward minus the center, over 1 - q. Its mean is the difference at that moment, however the traffic drifts,
because chance alone decides which version an episode gets. The center is the mean reward so far; it changes the
variance, not the mean.

With `canary.by = "key"`, each API key has one version, and keys differ. Then the reward of an episode counts as its
change: minus the mean of one to four earlier episodes of the same key, before the canary began, when all keys had the
champion. Each earlier episode is used once. An episode of a key without unused ones says nothing, and is left out. q is
the candidate's share of the episodes so far. A drift that moves all keys alike moves the center.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from server.rewards.live import LiveReward
from server.training.regression import MAX_EPISODES, e_value, figures, log_capital, recorded, shares
from server.training.settings import CanarySettings, WatchSettings
from upturn.wire import LiveEvidence

METHOD = "betting on differences weighted by inverse probability, arXiv:2010.09686"
MOST_EARLIER = 4  # Earlier episodes per episode. Their mean adds a quarter of a single one's variance.
MOST_DRAWN = 200_000  # Most episodes of which the settings are tried.
PRIOR_EPISODES = 20  # The weight of the setting `share` in the candidate's share of the episodes of all keys.
Floats = npt.NDArray[np.float64]
Earlier = Mapping[str, Sequence[float]]
"""Rewards of each API key before the canary, in the order in which they are used."""


class Decision(NamedTuple):
    """What the episodes so far say."""

    promote: bool | None
    """None: undecided."""
    champion: int
    """Compared episodes of the champion."""
    candidate: int
    """Compared episodes of the candidate."""
    evidence: LiveEvidence | None
    """None until each version has an episode."""


@dataclass(frozen=True, slots=True)
class Episodes:
    """K compared episodes, by opening. Rewards are shares of their range."""

    of_candidate: npt.NDArray[np.bool_]
    """[K]"""
    rewards: Floats
    """[K]"""
    values: Floats
    """[K] what is compared: the rewards, or their changes."""


def judge(
    rule: WatchSettings,
    canary: CanarySettings,
    champion: tuple[int, Sequence[LiveReward]],
    candidate: tuple[int, Sequence[LiveReward]],
    earlier: Earlier | None,
) -> Decision:
    """Decide on a canary. A decision is final: later episodes do not change it.

    It is rejected after the first episode at which it counts as worse, with `watch.min_episodes` episodes of each
    version, and promoted after the first at which each version has `canary.min_episodes`, whichever comes first.

    Args:
        rule: bounds of the rewards, tolerated drop, and alpha.
        canary: the share, and the number of episodes for a promotion.
        champion: the champion and its rewards since the canary began, by opening.
        candidate: the candidate and its rewards.
        earlier: with `canary.by = "key"`, the rewards of each API key before the canary began.
    """
    episodes = _episodes(rule, canary, champion[1], candidate[1], earlier)
    counts = np.cumsum([~episodes.of_candidate, episodes.of_candidate], axis=1)  # [2, K]
    fewest = counts.min(axis=0)
    if not fewest.any():
        candidates = int(episodes.of_candidate.sum())
        return Decision(None, len(episodes.rewards) - candidates, candidates, None)
    differences, largest = estimates(episodes, canary.share, changes=earlier is not None)
    capital = log_capital(rule, differences, largest)
    worse = (capital >= math.log(1 / rule.alpha)) & (fewest >= min(rule.min_episodes, canary.min_episodes))
    decided = np.flatnonzero(worse | (fewest >= canary.min_episodes))
    at = int(decided[0]) if len(decided) else len(capital) - 1
    of_candidate, rewards, values = (
        episodes.of_candidate[: at + 1],
        episodes.rewards[: at + 1],
        episodes.values[: at + 1],
    )
    change = float(values[of_candidate].mean() - values[~of_candidate].mean()) * (rule.high - rule.low)
    evidence = LiveEvidence(
        before=figures(rule, champion[0], rewards[~of_candidate]),
        now=figures(rule, candidate[0], rewards[of_candidate]),
        difference=None if earlier is None else change,
        e_value=e_value(capital[at]),
        worse=bool(worse[at]),
        method=METHOD,
        rule=recorded(rule),
    )
    promote = not worse[at] if len(decided) else None
    return Decision(promote, evidence.before.episodes, evidence.now.episodes, evidence)


def estimates(episodes: Episodes, share: float, *, changes: bool) -> tuple[Floats, Floats]:
    """Return [K] estimates of the difference, and [K] the largest possible value of each.

    Center and q of an episode come from the episodes before it.

    Args:
        episodes: the episodes.
        share: probability that an episode, or a key, gets the candidate.
        changes: the values are changes: from -1 to 1, and not from 0 to 1.
    """
    before = np.arange(len(episodes.values))  # [K] number of episodes before each
    least, middle = (-1.0, 0.0) if changes else (0.0, 0.5)
    center = (middle + _sums_before(episodes.values)) / (1 + before)
    q = np.full(len(before), share)
    if changes:
        q = (share * PRIOR_EPISODES + _sums_before(episodes.of_candidate)) / (PRIOR_EPISODES + before)
    weights = np.where(episodes.of_candidate, 1 / q, -1 / (1 - q))
    return weights * (episodes.values - center), np.maximum((1 - center) / q, (center - least) / (1 - q))


def wanted_earlier(canary: CanarySettings) -> int:
    """Return the number of earlier episodes with which each episode of the canary has `MOST_EARLIER`."""
    return math.ceil(MOST_EARLIER * canary.min_episodes / min(canary.share, 1 - canary.share))


def min_episodes_to_detect(rule: WatchSettings, canary: CanarySettings) -> int | None:
    """Return the candidate's episodes after which it counts as worse if it earns `low` and the champion `high`.

    None if even `MAX_EPISODES` are too few. The candidate's episodes are spread evenly over the champion's.
    """
    count = min(MOST_DRAWN, math.ceil(MAX_EPISODES / canary.share))
    drawn = np.floor(np.arange(1, count + 1) * canary.share)
    of_candidate = np.diff(drawn, prepend=0) > 0
    rewards = np.where(of_candidate, 0.0, 1.0)
    changes = canary.by == "key"
    episodes = Episodes(of_candidate, rewards, rewards - 1 if changes else rewards)
    capital = log_capital(rule, *estimates(episodes, canary.share, changes=changes))
    worse = np.flatnonzero(capital >= math.log(1 / rule.alpha))
    return max(1, int(drawn[worse[0]])) if len(worse) else None


def _sums_before(values: npt.ArrayLike) -> Floats:
    """Return [K] the sum of the values before each."""
    return np.concatenate([[0.0], np.cumsum(np.asarray(values, dtype=np.float64))[:-1]])


def _episodes(
    rule: WatchSettings,
    canary: CanarySettings,
    champion: Sequence[LiveReward],
    candidate: Sequence[LiveReward],
    earlier: Earlier | None,
) -> Episodes:
    """Return the episodes that are compared."""
    rewards = [shares(rule, [episode.reward for episode in arm]) for arm in (champion, candidate)]
    arms = [
        [(e.opened_at, e.episode_id, e.owner_hash, of_candidate, reward) for e, reward in zip(arm, earned, strict=True)]
        for of_candidate, arm, earned in ((False, champion, rewards[0]), (True, candidate, rewards[1]))
    ]
    unused = {} if earlier is None else _means(rule, canary, earlier)
    rows = [
        (of_candidate, reward, reward if before is None else reward - before)
        for _, _, key, of_candidate, reward in heapq.merge(*arms)
        for before in [next(unused.get(key, iter(())), None)]
        if earlier is None or before is not None
    ]
    columns = np.array(rows, dtype=np.float64).reshape(-1, 3).T
    return Episodes(columns[0] > 0, columns[1], columns[2])


def _means(rule: WatchSettings, canary: CanarySettings, earlier: Earlier) -> dict[str, Iterator[float]]:
    """Return, for each API key, the means of its earlier episodes, of as many each as there are for all episodes."""
    found = sum(map(len, earlier.values()))
    each = max(1, min(MOST_EARLIER, MOST_EARLIER * found // wanted_earlier(canary)))
    return {
        key: iter([float(np.mean(of[at : at + each])) for at in range(0, len(of) - each + 1, each)])
        for key, rewards in earlier.items()
        for of in [shares(rule, rewards)]
    }
