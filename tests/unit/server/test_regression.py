"""The sequential test on live rewards: few false alarms however often it is checked, and a fall is detected soon."""

from __future__ import annotations

import numpy as np
import pytest

from server.training.regression import compare, min_pairs_to_detect
from server.training.settings import WatchSettings
from upturn.wire import LiveEvidence

RULE = WatchSettings()


def compared(rng: np.random.Generator, before: float, now: float, rule: WatchSettings = RULE) -> LiveEvidence:
    """Compare successes of two versions: the last interim analysis includes the verdict of every earlier one."""

    def drawn(share: float) -> list[float]:
        return list((rng.random(rule.window) < share).astype(float))

    evidence = compare(rule, (1, drawn(before)), (2, drawn(now)))
    assert evidence is not None
    return evidence


@pytest.mark.parametrize("min_drop", [0.0, 0.05])
def test_false_alarms_over_an_analysis_after_every_episode_stay_below_alpha(min_drop: float) -> None:
    rule, rng = WatchSettings(min_drop=min_drop), np.random.default_rng(1)
    alarms = [compared(rng, share, share - min_drop, rule).worse for share in (0.2, 0.5, 0.8) for _ in range(300)]
    assert sum(alarms) / len(alarms) < rule.alpha


def test_false_alarms_stay_below_alpha_for_heavy_tailed_rewards() -> None:
    rng = np.random.default_rng(2)
    alarms = []
    for _ in range(300):
        before, now = (list(3 * rng.standard_t(2, RULE.window)) for _ in range(2))
        evidence = compare(RULE.model_copy(update={"min_drop": 0.0}), (1, before), (2, now))
        alarms.append(evidence is not None and evidence.worse)
    assert sum(alarms) / len(alarms) < RULE.alpha


@pytest.mark.parametrize("before", [0.3, 0.5, 0.7, 0.9])
def test_a_drop_of_0_3_is_detected_within_about_fifty_episodes(before: float) -> None:
    rng = np.random.default_rng(3)
    results = [compared(rng, before, before - 0.3) for _ in range(200)]
    episodes = [evidence.now.episodes for evidence in results if evidence.worse]
    assert len(episodes) >= 195 and np.median(episodes) <= 60 and np.quantile(episodes, 0.9) <= 120


def test_a_later_analysis_never_reverses_an_earlier_verdict() -> None:
    before, now = [1.0] * 100, [0.0] * 30 + [1.0] * 70
    first = next(n for n in range(1, 101) if (found := compare(RULE, (1, before), (2, now[:n]))) and found.worse)
    verdicts = [compare(RULE, (1, before), (2, now[:n])) for n in range(first, 101)]
    assert all(verdict == verdicts[0] for verdict in verdicts)
    assert verdicts[0] is not None and verdicts[0].e_value >= 1 / RULE.alpha and verdicts[0].now.episodes == first


def test_exactly_the_least_pairs_are_compared_and_only_pairs_count() -> None:
    rule = WatchSettings(min_episodes=5, window=10)
    assert compare(rule, (1, [1.0] * 4), (2, [0.0] * 9)) is compare(rule, (1, [1.0] * 9), (2, [0.0] * 4)) is None
    evidence = compare(rule, (1, [1.0] * 5), (2, [0.5] * 9))
    assert evidence is not None
    assert (evidence.before.episodes, evidence.now.episodes) == (5, 5)
    assert (evidence.before.version, evidence.before.mean_reward) == (1, 1.0)
    assert (evidence.now.version, evidence.now.mean_reward) == (2, 0.5)


def test_rewards_beyond_their_bounds_count_as_the_bounds() -> None:
    inside = compare(RULE, (1, [1.0] * 30), (2, [-1.0] * 30))
    assert inside is not None and compare(RULE, (1, [9.0] * 30), (2, [-9.0] * 30)) == inside
    assert inside.before.mean_reward == 1.0 and inside.now.mean_reward == -1.0


def test_too_few_pairs_decide_nothing_and_a_version_that_earns_more_is_never_worse() -> None:
    assert compare(RULE, (1, [1.0] * 19), (2, [0.0] * 200)) is None
    better = compare(RULE, (1, [0.0] * 200), (2, [1.0] * 200))
    assert better is not None and not better.worse and better.e_value < 1


def test_a_window_that_cannot_decide_is_refused() -> None:
    for wrong in ({"low": 1.0}, {"min_drop": 2.0}, {"window": 10}):
        with pytest.raises(ValueError, match=r"watch\."):
            WatchSettings(**wrong)


def test_the_minimum_number_of_pairs_detects_the_largest_possible_fall() -> None:
    for rule in (RULE, WatchSettings(alpha=0.001, min_drop=0.5), WatchSettings(low=0.0, min_drop=0.0)):
        least = min_pairs_to_detect(rule)
        assert least is not None
        for pairs in (least - 1, least):
            at_once = rule.model_copy(update={"min_episodes": 1})
            worst = compare(at_once, (0, [rule.high] * pairs), (1, [rule.low] * pairs))
            assert worst is not None and worst.worse is (pairs == least)
    assert min_pairs_to_detect(WatchSettings(min_drop=1.999)) is None
