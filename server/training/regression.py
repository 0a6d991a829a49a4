"""Whether a version earns less than another: a test that may be looked at after every episode. Pure functions.

The k-th episode of the one is set against the k-th of the other. Somebody who believes that the later version is worse
starts with a capital of 1 and bets a part of it on each pair. While the later one falls short by no more than is
tolerated, no such bet gains on average, so the capital ever reaches 1 / alpha with probability alpha at most (Ville's
inequality): however often one looks, and whatever the rewards are distributed like, as long as they are bounded. The
capital is split evenly over bets of several sizes, of which one is about right. Testing by betting for bounded means is
Waudby-Smith and Ramdas, arXiv:2010.09686.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from server.training.settings import WatchSettings
from upturn.wire import LiveEvidence, LiveFigures

METHOD = "betting on pairs of episodes, arXiv:2010.09686"
BETS = np.arange(1, 20)[:, None] / 20
"""[M, 1] sizes of the bets, as shares of the largest that cannot lose more than all."""

MOST = 2000  # Episodes of a version that settings may ask for.


def compare(
    rule: WatchSettings, before: tuple[int, Sequence[float]], now: tuple[int, Sequence[float]]
) -> LiveEvidence | None:
    """Compare the rewards of two versions, each in the order in which they count; None where there are too few.

    What was decided once stays so: further pairs add nothing after the first at which the later one is worse.
    """
    pairs, least = min(len(before[1]), len(now[1])), rule.min_episodes
    if pairs < least:
        return None
    width = rule.high - rule.low
    earned, earns = (
        np.clip(np.asarray(rewards[:pairs], dtype=np.float64), rule.low, rule.high) for _, rewards in (before, now)
    )
    tolerated = rule.min_drop / width
    gains = (earns - earned) / width + tolerated  # [K] at least 0 on average, where nothing is wrong
    capital = np.logaddexp.reduce(np.cumsum(np.log1p(-BETS / (1 + tolerated) * gains), axis=1), axis=0)
    capital -= math.log(len(BETS))  # [K] natural logarithm
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


def fewest(rule: WatchSettings) -> int | None:
    """Return the pairs after which one that always earns the least counts as worse than one that always earns the most.

    None where `MOST` are too few even then.
    """
    evidence = compare(rule.model_copy(update={"min_episodes": 1}), (0, [rule.high] * MOST), (0, [rule.low] * MOST))
    return evidence.now.episodes if evidence is not None and evidence.worse else None


def said(evidence: LiveEvidence) -> str:
    """Return what the figures say, in a sentence."""
    now, before = evidence.now, evidence.before
    return (
        f"mean live reward {now.mean_reward:.3f} over {now.episodes} episodes, {before.mean_reward:.3f} over as "
        f"many of version {before.version}: evidence {evidence.e_value:.3g} of the "
        f"{1 / evidence.rule['alpha']:.3g} that count as worse"
    )
