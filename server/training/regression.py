"""Whether a version earns less than another: a sequential test, valid after every episode. Pure functions.

The k-th episode of the newer version is paired with the k-th of the older one. A gambler who believes that the newer
version is worse starts with a capital of 1 and bets a share of it on each pair. If the true drop is at most the
tolerated one, no bet gains on average, so the capital ever reaches 1 / alpha with a probability of at most alpha
(Ville's inequality): at every interim analysis, and for any distribution of bounded rewards. The capital is
split evenly over bets of several sizes, so that one is about right. Testing by betting for bounded means: Waudby-Smith
and Ramdas, arXiv:2010.09686.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from server.training.settings import WatchSettings
from upturn.wire import LiveEvidence, LiveFigures

METHOD = "betting on pairs of episodes, arXiv:2010.09686"
BETS = np.arange(1, 20)[:, None] / 20
"""[M, 1] sizes of the bets, as fractions of the largest bet that cannot lose more than the whole capital."""

MAX_EPISODES = 2000  # The largest `watch.window` and `canary.min_episodes`.


def compare(
    rule: WatchSettings, before: tuple[int, Sequence[float]], now: tuple[int, Sequence[float]]
) -> LiveEvidence | None:
    """Compare the rewards of two versions; None if there are fewer than `min_episodes` pairs.

    A decision is final: pairs after the first one at which the newer version counts as worse change nothing.

    Args:
        rule: bounds of the rewards, tolerated drop, and alpha.
        before: the older version and [K] its rewards, in the order in which they are paired.
        now: the newer version and [K'] its rewards.
    """
    pairs, least = min(len(before[1]), len(now[1])), rule.min_episodes
    if pairs < least:
        return None
    width = rule.high - rule.low
    earned, earns = (
        np.clip(np.asarray(rewards[:pairs], dtype=np.float64), rule.low, rule.high) for _, rewards in (before, now)
    )
    tolerated = rule.min_drop / width
    gains = (earns - earned) / width + tolerated  # [K] mean at least 0 if the drop is tolerable
    capital = np.logaddexp.reduce(np.cumsum(np.log1p(-BETS / (1 + tolerated) * gains), axis=1), axis=0)
    capital -= math.log(len(BETS))  # [K] log of the mean capital over the bet sizes
    worse = np.flatnonzero(capital[least - 1 :] >= math.log(1 / rule.alpha))
    at = least - 1 + int(worse[0]) if len(worse) else pairs - 1
    return LiveEvidence(
        before=LiveFigures(version=before[0], episodes=at + 1, mean_reward=float(earned[: at + 1].mean())),
        now=LiveFigures(version=now[0], episodes=at + 1, mean_reward=float(earns[: at + 1].mean())),
        e_value=math.exp(min(capital[at], 700.0)),
        worse=bool(len(worse)),
        method=METHOD,
        rule={name: float(value) for name, value in rule.model_dump(exclude={"enabled"}).items()},
    )


def min_pairs_to_detect(rule: WatchSettings) -> int | None:
    """Return the number of pairs after which constant rewards of `low` count as worse than constant ones of `high`.

    None if even `MAX_EPISODES` pairs are too few.
    """
    evidence = compare(
        rule.model_copy(update={"min_episodes": 1}), (0, [rule.high] * MAX_EPISODES), (0, [rule.low] * MAX_EPISODES)
    )
    return evidence.now.episodes if evidence is not None and evidence.worse else None


def summary(evidence: LiveEvidence) -> str:
    """Return the evidence as a sentence."""
    now, before = evidence.now, evidence.before
    return (
        f"mean live reward {now.mean_reward:.3f} over {now.episodes} episodes, {before.mean_reward:.3f} over as many "
        f"of version {before.version}: evidence {evidence.e_value:.3g}, where "
        f"{1 / evidence.rule['alpha']:.3g} counts as worse"
    )
