"""What one observation of the watch and the canary is: an episode's reward at a fixed age, by opening."""

from __future__ import annotations

import random

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.rewards.delays import HOUR_S, LONGEST_S, SHORTEST_S, UNKNOWN_S, maturity, observed_delays
from server.rewards.live import SETTLED_S, Arm, LiveReward, Window, live_rewards
from server.store.tables import RewardSourceRow
from tests.support.runs.matured import Matured

DAY = 86_400.0
AGE = 3600.0
EVER = Window(0.0, 1e10, AGE)


@pytest.fixture
def live(session: Session) -> Matured:
    return Matured(session)


def values(session: Session, window: Window = EVER, limit: int = 100, version: int = 0) -> list[float]:
    return [reward.reward for reward in live_rewards(session, version, window, limit)]


def ignore(session: Session, source: str, weight: float = 0.0, *, blocked: bool = False) -> None:
    session.merge(RewardSourceRow(name=source, weight=weight, cap=None, blocked=blocked, set_by="api", changed_at=0.0))
    session.flush()


def test_rewards_are_in_the_order_in_which_their_episodes_opened(session: Session, live: Matured) -> None:
    for number, delay in enumerate((3000.0, 10.0, 2000.0, 1.0)):
        live.episode(DAY + number, (delay, number))
    assert values(session) == [0, 1, 2, 3] and values(session, limit=3) == [0, 1, 2]
    assert values(session, Window(0.0, DAY + 3, AGE, newest_first=True), 2) == [2, 1]
    assert values(session, Window(DAY + 1, 1e10, AGE)) == [1, 2, 3] and values(session, version=1) == []


def test_the_reward_at_the_age_counts_and_what_comes_later_changes_nothing(session: Session, live: Matured) -> None:
    early = live.episode(DAY, (AGE, 1.0))
    for episode in (early, live.episode(DAY + 1, (AGE + 1, 0.5))):
        live.reward(episode, DAY + 2 * AGE, -9.0)
    live.episode(DAY + 2, (10, 2.0), (AGE - 1, 3.0), (AGE + 1, -9.0))
    live.episode(DAY + 3, (10, 4.0), turns=((1, -1), (AGE + 1, 7)))
    live.episode(DAY + 4, (10, 6.0), failed_after=AGE + 1)
    assert values(session) == [1.0, 5.0, 4.0, 6.0]


def test_an_episode_counts_for_the_only_version_that_answered_before_the_age(session: Session, live: Matured) -> None:
    live.episode(DAY, (10, 1.0), turns=((1, -1), (2, 7)))
    live.episode(DAY, (10, 1.0), turns=())
    live.episode(DAY, (10, 1.0), turns=((AGE + 1, -1),))
    live.episode(DAY, (10, 1.0), failed_after=5)
    assert values(session) == []


def test_an_environment_counts_once_it_has_ended_with_a_reward(session: Session, live: Matured) -> None:
    live.played(DAY, AGE, 1.0)
    live.played(DAY + 1, AGE + 1, 2.0)
    live.played(DAY + 2, 1, None)
    rewarded = live.played(DAY + 3, 1, None)
    live.reward(rewarded, DAY + 10, 3.0)
    assert values(session) == [1.0, 3.0]


@pytest.mark.parametrize("blocked", [True, False])
def test_rewards_of_a_source_that_does_not_count_take_no_place_of_others(
    session: Session, live: Matured, blocked: bool
) -> None:
    ignore(session, "crowd", 1.0 if blocked else 0.0, blocked=blocked)
    for number in range(70):
        live.episode(DAY + number, (10, float(number)), source="user" if 30 <= number < 40 else "crowd")
    ten = [float(number) for number in range(30, 40)]
    assert values(session, limit=10) == values(session, limit=200) == ten
    assert values(session, Window(0.0, 1e10, AGE, newest_first=True), 10) == ten[::-1]
    ignore(session, "*")
    assert values(session) == []


@pytest.mark.parametrize("failure_s", [300.0, 2 * HOUR_S])
@pytest.mark.parametrize("seed", range(3))
def test_each_look_sees_a_beginning_of_what_later_looks_see(
    session: Session, live: Matured, seed: int, failure_s: float
) -> None:
    rng, age = random.Random(seed), 3 * HOUR_S
    for _ in range(60):
        reward = float(rng.random() < 0.5)
        opened = DAY + rng.randrange(0, 50) * 600.0  # Many at the same moment.
        live.episode(opened, *([(HOUR_S if reward else failure_s, reward)] if rng.random() < 0.8 else []))
    whole = live_rewards(session, 0, Window(DAY, 1e10, age), 100)
    for most in (7, 100):
        arm = Arm(0, DAY, age, most)
        for look in range(100):
            now = DAY + look * 600.0
            seen = arm.read(session, now)
            assert seen == whole[: len(seen)] and seen == Arm(0, DAY, age, most).read(session, now)
            assert len(seen) == min(most, sum(r.opened_at < now - age - SETTLED_S for r in whole))
        assert seen == whole[:most]


def test_a_look_reads_only_what_has_matured_since_the_last_one(session: Session, live: Matured) -> None:
    for number in range(20):
        live.episode(DAY + 60 * number, (10, 1.0))
    arm, asked = Arm(0, DAY, AGE, 100), list[object]()
    sa.event.listen(session.get_bind(), "before_cursor_execute", lambda *given: asked.append(given[3]))
    assert len(arm.read(session, DAY + AGE + 600 + SETTLED_S)) == 10
    asked.clear()
    assert len(arm.read(session, DAY + AGE + 600 + SETTLED_S)) == 10 and not asked, "nothing can have matured"
    assert len(arm.read(session, DAY + 2 * AGE)) == 20 and DAY + 600 in asked[1], "it starts at the last look"


def test_a_clock_that_was_ahead_and_is_set_back_loses_no_reward(session: Session, live: Matured) -> None:
    arm = Arm(0, DAY, AGE, 100)
    assert arm.read(session, 3 * DAY) == []
    for number in range(3):
        live.episode(DAY + 60 * number, (10, 1.0))
        assert len(arm.read(session, DAY + 60 * number + AGE + SETTLED_S + 1)) == number + 1
        assert len(arm.read(session, 3 * DAY)) == number + 1


def test_an_arm_leaves_out_what_does_not_count_and_still_fills_up(session: Session, live: Matured) -> None:
    for number in range(20):
        live.episode(DAY, (10, float(number)), key=f"key {number % 2}")

    def counts(reward: LiveReward) -> bool:
        return reward.owner_hash == "key 1"

    arm = Arm(0, DAY, AGE, 8, counts)
    for _ in range(9):
        seen = arm.read(session, 2 * DAY)
    assert [reward.reward for reward in seen] == [1, 3, 5, 7, 9, 11, 13, 15]


def test_the_age_covers_the_delays_of_good_and_of_bad_rewards() -> None:
    for slow, fast in ((0.0, 1.0), (1.0, 0.0)):
        observed = [(2 * HOUR_S, slow)] * 10 + [(300.0, fast)] * 390
        assert maturity(observed) == 4 * HOUR_S
    assert maturity([(1.0, 0.0)] * 50 + [(2.0, 1.0)] * 50) == SHORTEST_S
    assert maturity([(7 * HOUR_S, 0.0)] * 50 + [(2.0, 1.0)] * 50) == LONGEST_S
    assert maturity([(60.0 * n, n % 2) for n in range(100)]) == 2 * 60 * 95


def test_the_age_is_a_long_one_where_delays_of_good_or_bad_rewards_are_unknown() -> None:
    for observed in ([], [(1.0, 1.0)] * 400, [(1.0, 1.0)] * 400 + [(1.0, 0.0)] * 4):
        assert maturity(observed) == UNKNOWN_S


def test_delays_are_observed_of_episodes_that_are_old_enough_for_the_longest(session: Session, live: Matured) -> None:
    before = DAY + LONGEST_S
    live.episode(DAY - 9, (10, 1.0), (50, 2.0), (LONGEST_S + 1, 5.0))
    live.played(DAY - 8, 70, 4.0)
    live.reward(live.played(DAY - 7, 70, 4.0), DAY + 93, 1.0)
    live.episode(DAY - 6)
    live.episode(DAY - 5, (10, 1.0), source="crowd")
    live.episode(DAY, (10, 1.0))
    live.episode(DAY - 4, (10, 1.0), version=1)
    ignore(session, "crowd")
    assert observed_delays(session, 0, before) == [(100.0, 5.0), (70.0, 4.0), (50.0, 3.0)]
