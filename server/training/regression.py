"""Whether a version earns less than another: a sequential test, valid after every episode. Pure functions.

A gambler who believes that the newer version is worse starts with a capital of 1 and bets a share of it on each
comparison. If the true drop is at most the tolerated one, no bet gains on average, so the capital ever reaches
1 / alpha with a probability of at most alpha (Ville's inequality): at every interim analysis, and for any distribution
of bounded rewards. The capital is split evenly over bets of several sizes, so that one is about right. Testing by
betting for bounded means: Waudby-Smith and Ramdas, arXiv:2010.09686.

The bound holds because the sequence of comparisons only grows: their rewards are read at a fixed age
(`server/rewards/live.py`) and ordered by the opening of their episodes. The watch compares the k-th episode of the
newer version with the k-th of the older one; what the canary compares is in `canary.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from server.training.settings import WatchSettings
from upturn.wire import LiveEvidence, LiveFigures

METHOD = "betting on pairs of episodes, arXiv:2010.09686"
BETS = np.arange(1, 20)[:, None] / 20
"""[M, 1] sizes of the bets, as fractions of the largest bet that cannot lose more than the whole capital."""

MAX_EPISODES = 2000  # The largest `watch.window` and `canary.min_episodes`.


def log_capital(
    rule: WatchSettings, differences: npt.ArrayLike, largest: npt.ArrayLike = 1.0
) -> npt.NDArray[np.float64]:
    """Return [K] the log of the gambler's capital after each of K comparisons.

    Args:
        rule: bounds of the rewards and tolerated drop.
        differences: [K] reward of the newer version minus that of the older one, as shares of the range of rewards.
        largest: the largest possible difference, one for all or [K] of each, known before it.
    """
    tolerated = rule.min_drop / (rule.high - rule.low)
    gains = np.asarray(differences, dtype=np.float64) + tolerated  # [K] mean at least 0 if the drop is tolerable
    bets = BETS / (np.asarray(largest) + tolerated)
    capital = np.logaddexp.reduce(np.cumsum(np.log1p(-bets * gains), axis=1), axis=0)
    return np.asarray(capital - math.log(len(BETS)))  # the mean over the bet sizes


def shares(rule: WatchSettings, rewards: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return rewards, clipped to their bounds, as shares of their range: 0 is `low`, 1 is `high`."""
    clipped = np.clip(np.asarray(rewards, dtype=np.float64), rule.low, rule.high)
    return np.asarray((clipped - rule.low) / (rule.high - rule.low))


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
    earned, earns = (shares(rule, rewards[:pairs]) for _, rewards in (before, now))
    capital = log_capital(rule, earns - earned)
    worse = np.flatnonzero(capital[least - 1 :] >= math.log(1 / rule.alpha))
    at = least - 1 + int(worse[0]) if len(worse) else pairs - 1
    return LiveEvidence(
        before=figures(rule, before[0], earned[: at + 1]),
        now=figures(rule, now[0], earns[: at + 1]),
        e_value=e_value(capital[at]),
        worse=bool(len(worse)),
        method=METHOD,
        rule=recorded(rule),
    )


def figures(rule: WatchSettings, version: int, compared: npt.NDArray[np.float64]) -> LiveFigures:
    """Return the figures of [K] compared rewards, which are shares of their range."""
    mean = rule.low + (rule.high - rule.low) * float(compared.mean())
    return LiveFigures(version=version, episodes=len(compared), mean_reward=mean)


def e_value(log_of_capital: float) -> float:
    """Return the evidence of a capital as a number that JSON can hold."""
    return math.exp(min(log_of_capital, 700.0))


def recorded(rule: WatchSettings) -> dict[str, float]:
    """Return the settings that evidence records."""
    return {name: float(value) for name, value in rule.model_dump(exclude={"enabled"}, exclude_none=True).items()}


def min_pairs_to_detect(rule: WatchSettings) -> int | None:
    """Return the number of pairs after which constant rewards of `low` count as worse than constant ones of `high`.

    None if even `MAX_EPISODES` pairs are too few.
    """
    worse = np.flatnonzero(log_capital(rule, np.full(MAX_EPISODES, -1.0)) >= math.log(1 / rule.alpha))
    return int(worse[0]) + 1 if len(worse) else None


def summary(evidence: LiveEvidence) -> str:
    """Return the evidence as a sentence."""
    now, before = evidence.now, evidence.before
    many = "as many" if before.episodes == now.episodes else f"{before.episodes}"
    within = "" if evidence.difference is None else f", {evidence.difference:+.3f} within API keys"
    return (
        f"mean live reward {now.mean_reward:.3f} over {now.episodes} episodes, {before.mean_reward:.3f} over {many} "
        f"of version {before.version}{within}: evidence {evidence.e_value:.3g}, where "
        f"{1 / evidence.rule['alpha']:.3g} counts as worse"
    )
