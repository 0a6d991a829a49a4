"""The test on live rewards: it may be looked at after every episode and still rarely errs, and it sees a fall soon."""

from __future__ import annotations

import numpy as np
import pytest

from server.training.regression import compare, fewest
from server.training.settings import WatchSettings
from upturn.wire import LiveEvidence

RULE = WatchSettings()


def looked_at(rng: np.random.Generator, before: float, now: float, rule: WatchSettings = RULE) -> LiveEvidence:
    """Compare successes of two versions after every pair: the verdict of the last look holds every one before."""

    def drawn(share: float) -> list[float]:
        return list((rng.random(rule.window) < share).astype(float))

    evidence = compare(rule, (1, drawn(before)), (2, drawn(now)))
    assert evidence is not None
    return evidence


@pytest.mark.parametrize("min_drop", [0.0, 0.05])
def test_looked_at_after_every_episode_it_raises_fewer_false_alarms_than_alpha(min_drop: float) -> None:
    rule, rng = WatchSettings(min_drop=min_drop), np.random.default_rng(1)
    alarms = [looked_at(rng, share, share - min_drop, rule).worse for share in (0.2, 0.5, 0.8) for _ in range(300)]
    assert sum(alarms) / len(alarms) < rule.alpha


def test_rewards_of_any_form_raise_no_more() -> None:
    rng = np.random.default_rng(2)
    alarms = []
    for _ in range(300):
        before, now = (list(3 * rng.standard_t(2, RULE.window)) for _ in range(2))
        evidence = compare(RULE.model_copy(update={"min_drop": 0.0}), (1, before), (2, now))
        alarms.append(evidence is not None and evidence.worse)
    assert sum(alarms) / len(alarms) < RULE.alpha


@pytest.mark.parametrize("before", [0.3, 0.5, 0.7, 0.9])
def test_a_fall_by_0_3_is_seen_within_about_fifty_episodes(before: float) -> None:
    rng = np.random.default_rng(3)
    found = [looked_at(rng, before, before - 0.3) for _ in range(200)]
    seen = [evidence.now.episodes for evidence in found if evidence.worse]
    assert len(seen) >= 195 and np.median(seen) <= 60 and np.quantile(seen, 0.9) <= 120


def test_a_later_look_never_takes_back_what_an_earlier_one_has_found() -> None:
    before, now = [1.0] * 100, [0.0] * 30 + [1.0] * 70
    first = next(n for n in range(1, 101) if (found := compare(RULE, (1, before), (2, now[:n]))) and found.worse)
    verdicts = [compare(RULE, (1, before), (2, now[:n])) for n in range(first, 101)]
    assert all(verdict == verdicts[0] for verdict in verdicts)
    assert verdicts[0] is not None and verdicts[0].e_value >= 1 / RULE.alpha and verdicts[0].now.episodes == first


def test_too_few_pairs_decide_nothing_and_one_that_earns_more_is_never_worse() -> None:
    assert compare(RULE, (1, [1.0] * 19), (2, [0.0] * 200)) is None
    better = compare(RULE, (1, [0.0] * 200), (2, [1.0] * 200))
    assert better is not None and not better.worse and better.e_value < 1


def test_a_window_that_cannot_decide_is_refused() -> None:
    for wrong in ({"low": 1.0}, {"min_drop": 2.0}, {"window": 10}):
        with pytest.raises(ValueError, match=r"watch\."):
            WatchSettings(**wrong)


def test_the_fewest_pairs_are_those_at_which_the_worst_there_is_is_found() -> None:
    for rule in (RULE, WatchSettings(alpha=0.001, min_drop=0.5), WatchSettings(low=0.0, min_drop=0.0)):
        least = fewest(rule)
        assert least is not None
        for pairs in (least - 1, least):
            at_once = rule.model_copy(update={"min_episodes": 1})
            worst = compare(at_once, (0, [rule.high] * pairs), (1, [rule.low] * pairs))
            assert worst is not None and worst.worse is (pairs == least)
    assert fewest(WatchSettings(min_drop=1.999)) is None
