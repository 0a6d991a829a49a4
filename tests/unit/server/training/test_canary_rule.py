"""A canary's decision: few false rejections however traffic drifts and keys differ, and a fall is detected."""

from __future__ import annotations

import numpy as np
import pytest

from server.rewards.live import LiveReward
from server.training.canary import Decision, Earlier, judge, min_episodes_to_detect, wanted_earlier
from server.training.settings import CanarySettings, WatchSettings

RULE = WatchSettings()
KEYS = np.linspace(0.4, 0.85, 10)


def decided(
    seed: int, canary: CanarySettings, fall: float = 0.0, drift: float = 0.0, rule: WatchSettings = RULE
) -> Decision:
    """Decide on simulated successes of ten keys of different success, which drifts from +drift to -drift."""
    rng = np.random.default_rng(seed)
    count = int(1.5 * canary.min_episodes / min(canary.share, 1 - canary.share))
    keys = rng.integers(0, len(KEYS), count)
    if canary.by == "key":
        arms = np.isin(keys, rng.permutation(len(KEYS))[: max(1, round(canary.share * len(KEYS)))])
    else:
        arms = rng.random(count) < canary.share
    success = KEYS[keys] - fall * arms + np.linspace(drift, -drift, count)
    rewards = (rng.random(count) < success).astype(float)
    found: tuple[list[LiveReward], list[LiveReward]] = [], []
    for number in range(count):
        found[int(arms[number])].append(LiveReward(number, f"{number}", f"{keys[number]}", rewards[number]))
    each = wanted_earlier(canary) // len(KEYS)
    earlier = {f"{key}": list((rng.random(each) < share).astype(float)) for key, share in enumerate(KEYS)}
    return judge(rule, canary, (1, found[0]), (2, found[1]), earlier if canary.by == "key" else None)


CANARIES = [CanarySettings(share=0.25, by=by) for by in ("episode", "key")]


@pytest.mark.parametrize("canary", CANARIES, ids=lambda canary: canary.by)
@pytest.mark.parametrize("drift", [0.0, 0.15, -0.15])
def test_a_candidate_as_good_is_seldom_rejected_however_traffic_drifts(canary: CanarySettings, drift: float) -> None:
    rule = RULE.model_copy(update={"min_drop": 0.01})
    small = canary.model_copy(update={"min_episodes": 100})
    rejected = [decided(seed, small, drift=drift, rule=rule).promote is False for seed in range(100)]
    assert sum(rejected) <= 9, "about alpha at most"


def test_a_small_share_of_falling_traffic_is_not_taken_for_a_worse_candidate() -> None:
    canary = CanarySettings(share=0.1, min_episodes=150)
    found = [decided(seed, canary, drift=0.15) for seed in range(30)]
    assert sum(decision.promote is False for decision in found) <= 1


@pytest.mark.parametrize("canary", CANARIES, ids=lambda canary: canary.by)
@pytest.mark.parametrize("drift", [0.0, 0.15])
def test_a_candidate_that_succeeds_a_fifth_less_is_rejected(canary: CanarySettings, drift: float) -> None:
    assert sum(decided(seed, canary, 0.2, drift).promote is False for seed in range(40)) >= 34


@pytest.mark.parametrize("canary", CANARIES, ids=lambda canary: canary.by)
@pytest.mark.parametrize("fall", [0.0, 0.8])
def test_a_later_look_never_reverses_a_decision(canary: CanarySettings, fall: float) -> None:
    rng = np.random.default_rng(1)
    small = canary.model_copy(update={"min_episodes": 60})
    rewards = [
        LiveReward(number, f"{number}", f"{number % 8}", float(rng.random() < 0.8 - fall * (number % 4 == 0)))
        for number in range(400)
    ]
    earlier: Earlier | None = {f"{key}": [1.0, 0.0] * 40 for key in range(8)} if canary.by == "key" else None
    looks = [
        judge(RULE, small, (1, [r for r in seen if int(r.episode_id) % 4]), (2, list(seen[::4])), earlier)
        for seen in (rewards[:count] for count in range(0, 401, 5))
    ]
    first = next(number for number, look in enumerate(looks) if look.promote is not None)
    assert looks[first].promote is (fall == 0) and all(look == looks[first] for look in looks[first:])
    assert all(look.promote is None for look in looks[:first])


def one(number: int, key: str, reward: float) -> LiveReward:
    return LiveReward(number, f"{number}", key, reward)


def test_within_keys_only_episodes_with_an_unused_earlier_one_count() -> None:
    canary = CanarySettings(share=0.5, by="key", min_episodes=2000)
    champion = [one(number, "a", 0.5) for number in range(0, 10, 2)] + [one(20, "new", 1.0)]
    candidate = [one(number, "b", 0.25) for number in range(1, 10, 2)]
    found = judge(RULE, canary, (1, champion), (2, candidate), {"a": [0.0] * 3, "b": [0.75] * 4})
    assert (found.promote, found.champion, found.candidate) == (None, 3, 4)
    assert found.evidence is not None and found.evidence.difference == pytest.approx((0.25 - 0.75) - 0.5)
    assert (found.evidence.before.mean_reward, found.evidence.now.mean_reward) == (0.5, 0.25)
    assert judge(RULE, canary, (1, champion), (2, candidate), {}) == (None, 0, 0, None)


def test_nothing_is_decided_without_rewards_of_both_versions() -> None:
    canary, some = CanarySettings(share=0.5, min_episodes=2), [one(number, "a", 1.0) for number in range(9)]
    for champion, candidate in (([], []), (some, []), ([], some)):
        found = judge(RULE, canary, (1, champion), (2, candidate), None)
        assert found == (None, len(champion), len(candidate), None)


def test_a_candidate_is_promoted_with_exactly_the_episodes_that_are_asked_for() -> None:
    canary = CanarySettings(share=0.5, min_episodes=7)
    for count in (6, 7, 9):
        champion, candidate = ([one(2 * n + arm, "a", 1.0) for n in range(count)] for arm in (0, 1))
        found = judge(RULE, canary, (1, champion), (2, candidate), None)
        assert found.promote is (True if count >= 7 else None) and found.candidate == min(count, 7)


@pytest.mark.parametrize("by", ["episode", "key"])
@pytest.mark.parametrize("share", [0.05, 0.25, 0.5, 0.9])
def test_the_largest_fall_is_detected_after_a_few_episodes(share: float, by: str) -> None:
    least = min_episodes_to_detect(RULE, CanarySettings.model_validate({"share": share, "by": by}))
    assert least is not None and 1 <= least <= 20
    assert min_episodes_to_detect(WatchSettings(min_drop=1.999), CanarySettings(share=share)) is None
