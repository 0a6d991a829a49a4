"""Simulated live traffic, judged by the project's own rules: how often the watch rolls back and a canary is rejected.

Episodes open at random times (a Poisson process) and succeed (reward 1) or fail (reward 0). Rewards are known after a
delay that may depend on their value. Each reward is read at the age that `maturity` chooses from earlier episodes, as
the server does. The server checks every few seconds. A check sees the episodes that are mature, which is a beginning of
the whole sequence, and a decision on a beginning is a decision on the whole, so the whole is judged once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from server.rewards.delays import EPISODES, HOUR_S, LONGEST_S, maturity
from server.rewards.live import LiveReward
from server.training.canary import judge, wanted_earlier
from server.training.regression import compare
from server.training.settings import CanarySettings, WatchSettings
from server.versions.routing import Pointers

Floats = npt.NDArray[np.float64]
Rng = np.random.Generator
Delays = Callable[[Rng, Floats], Floats]
"""Seconds until each of [K] rewards is known."""
Drift = Callable[[Floats], Floats]
"""[K] change of success at [K] shares of the canary's time."""
Case = tuple[dict[str, str], Callable[..., bool]]
"""What is simulated, and whether the decision falls against the version: (rng, drop=its fall of success) -> bool."""
NEVER = 1e9
SUCCESS = 0.625
KEYS = np.linspace(0.4, 0.85, 10)
"""Success of ten API keys; their mean is that of all."""


def by_value(failure_s: float, success_s: float) -> Delays:
    """Return delays of failures and successes."""
    return lambda _, rewards: np.where(rewards > 0, success_s, failure_s)


def half_never(rng: Rng, rewards: Floats) -> Floats:
    """Return 5 minutes for half of the rewards, and for the others more than any age."""
    return np.where(rng.random(len(rewards)) < 0.5, 300.0, NEVER)


DELAYS: dict[str, Delays] = {
    "5 min": by_value(300, 300),
    "exponential, mean 1 h": lambda rng, rewards: rng.exponential(HOUR_S, len(rewards)),
    "failures 5 min, successes 2 h": by_value(300, 2 * HOUR_S),
    "failures 2 h, successes 5 min": by_value(2 * HOUR_S, 300),
    "5 min, half never": half_never,
}
DRIFTS: dict[str, Drift] = {
    "none": lambda at: np.zeros(len(at)),
    "falls by 0.3": lambda at: 0.15 - 0.3 * at,
    "daily, +-0.15": lambda at: 0.15 * np.sin(6 * np.pi * at),
    "a step of -0.3": lambda at: np.where(at < 0.3, 0.15, -0.15),
}


@dataclass(frozen=True, slots=True)
class Traffic:
    """K episodes, by opening."""

    opened_at: Floats
    rewards: Floats
    delays: Floats

    def mature(self, age_s: float, first: float, last: float) -> npt.NDArray[np.int64]:
        """Return the episodes opened in a time whose reward is known at an age."""
        counts = (self.delays <= age_s) & (self.opened_at >= first) & (self.opened_at < last)
        return np.flatnonzero(counts)


def traffic(rng: Rng, times: Floats, success: npt.ArrayLike, delays: Delays) -> Traffic:
    """Return episodes opened at given times."""
    rewards = (rng.random(len(times)) < success).astype(np.float64)
    return Traffic(times, rewards, delays(rng, rewards))


def openings(rng: Rng, per_hour: float, first: float, count: int) -> Floats:
    """Return [count] times in seconds from `first` on."""
    return first + np.cumsum(rng.exponential(HOUR_S / per_hour, count))


def chosen_age(before: Traffic) -> float:
    """Return the age at which rewards are read, chosen at time 0 from the episodes before."""
    newest = before.mature(LONGEST_S, -np.inf, -LONGEST_S)[-EPISODES:]
    return maturity(list(zip(before.delays[newest].tolist(), before.rewards[newest].tolist(), strict=True)))


def rolled_back(rng: Rng, *, rule: WatchSettings, per_hour: float, delays: Delays, drop: float) -> bool:
    """Promote at time 0 a version whose success is lower by `drop`; return whether the watch rolls it back."""
    many = 3 * rule.window + EPISODES + int(3 * per_hour * LONGEST_S / HOUR_S)
    times = openings(rng, per_hour, 0.0, 2 * many)
    before = traffic(rng, times[:many] - times[many], SUCCESS, delays)
    now = traffic(rng, times[many:] - times[many], SUCCESS - drop, delays)
    age_s = chosen_age(before)
    earlier = before.rewards[before.mature(age_s, -np.inf, -age_s)][::-1][: rule.window]
    since = now.rewards[now.mature(age_s, 0.0, np.inf)][: rule.window]
    evidence = compare(rule, (0, earlier.tolist()), (1, since.tolist()))
    return evidence is not None and evidence.worse


def rejected(
    rng: Rng, *, rule: WatchSettings, canary: CanarySettings, per_hour: float, delays: Delays, drift: Drift, drop: float
) -> bool:
    """Begin at time 0 a canary whose success is lower by `drop`; return whether it is rejected.

    Ten API keys of different success send the episodes. Before, they have sent as many as `canary.by = "key"` reads.
    """
    end = canary.max_hours * HOUR_S
    most = (4 if canary.by == "key" else 3) * int(canary.min_episodes / min(canary.share, 1 - canary.share))
    many = 3 * wanted_earlier(canary) + int(3 * per_hour * LONGEST_S / HOUR_S)
    times = openings(rng, per_hour, 0.0, many + most)
    times -= times[many]
    keys = rng.integers(0, len(KEYS), many + most)
    before = traffic(rng, times[:many], KEYS[keys[:many]], delays)
    age_s = min(chosen_age(before), end / 2)
    pointers = Pointers("policy", share=canary.share, by_key=canary.by == "key")
    version = int(rng.integers(1, 2**31))
    drawn = np.array(
        [
            pointers.draws(version, episode_id=f"ep_{number}", owner_hash=f"key {key}")
            for number, key in enumerate(keys[many:])
        ]
    )
    opened = times[many:]
    success = KEYS[keys[many:]] + drift(opened / min(end, opened[-1])) - drop * drawn
    now = traffic(rng, opened, success, delays)
    mature = now.mature(age_s, 0.0, end - age_s)
    arms: tuple[list[LiveReward], list[LiveReward]] = [], []
    for number in mature.tolist():
        reward = LiveReward(opened[number], f"ep_{number}", f"key {keys[many + number]}", now.rewards[number])
        arms[int(drawn[number])].append(reward)
    earlier: dict[str, list[float]] | None = None
    if canary.by == "key":
        earlier = {f"key {key}": [] for key in range(len(KEYS))}
        for number in before.mature(age_s, -np.inf, -age_s)[::-1][: wanted_earlier(canary)]:
            earlier[f"key {keys[number]}"].append(before.rewards[number])
    return judge(rule, canary, (0, arms[0]), (1, arms[1]), earlier).promote is False


def watch_cases(rates: Sequence[float]) -> Iterator[Case]:
    """Yield the cases of the watch: delays of rewards, and episodes an hour."""
    for name, delays in DELAYS.items():
        for per_hour in rates:
            yield (
                {"delay": name, "episodes/h": f"{per_hour:g}"},
                partial(rolled_back, rule=WatchSettings(), per_hour=per_hour, delays=delays),
            )


def canary_cases(rates: Sequence[float]) -> Iterator[Case]:
    """Yield the cases of the canary: settings, delays of rewards, drift of success, and episodes an hour."""
    usual = "failures 5 min, successes 2 h"
    cases: list[tuple[CanarySettings, float, str, str]] = [
        (CanarySettings.model_validate({"share": share, "by": by}), 100.0, usual, drift)
        for by in ("episode", "key")
        for share in (0.1, 0.25, 0.5)
        for drift in (DRIFTS if share == 0.25 else ("none", "falls by 0.3"))
    ]
    cases += [(CanarySettings(share=0.25), per_hour, usual, "none") for per_hour in rates if per_hour != 100]
    cases += [(CanarySettings(share=0.25), 100.0, delays, "none") for delays in DELAYS if delays != usual]
    for canary, per_hour, delays, drift in cases:
        yield (
            {
                "by": canary.by,
                "share": f"{canary.share:g}",
                "delay": delays,
                "drift": drift,
                "episodes/h": f"{per_hour:g}",
            },
            partial(
                rejected,
                rule=WatchSettings(),
                canary=canary,
                per_hour=per_hour,
                delays=DELAYS[delays],
                drift=DRIFTS[drift],
            ),
        )
