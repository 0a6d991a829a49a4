"""What the watch and the canary compare: the live rewards of two versions, read at the same age (step 14).

Both depend on a row of the ledger, on the episodes, and on the rules of reward sources alone. The age is chosen when a
comparison begins, from earlier episodes.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from sqlalchemy.orm import Session

from server.rewards.delays import HOUR_S, maturity, observed_delays
from server.rewards.live import Arm, LiveReward, Window, live_rewards
from server.rewards.rules import Rules, read_rules
from server.store.tables import PromotionRow
from server.training.canary import Earlier, wanted_earlier
from server.training.settings import CanarySettings, WatchSettings
from server.versions.routing import Pointers

MOST = 100_000
"""Most rewarded episodes of either version that a canary reads, and of all keys before it."""


@dataclass(frozen=True, slots=True)
class Promoted:
    """A promoted version against the one before it."""

    row_id: int
    """The promotion's row in the ledger."""
    rules: Rules
    """How rewards count."""
    rule: WatchSettings
    """The settings, with the age at which rewards are read."""
    before: list[float]
    """Rewards of the previous champion's newest episodes that were mature at the promotion, newest first."""
    now: Arm

    @classmethod
    def begin(cls, session: Session, row: PromotionRow, watch: WatchSettings) -> Promoted:
        """Read the previous champion's rewards."""
        assert row.from_version is not None
        rule = _with_maturity(session, watch, row.from_version, row.created_at)
        age_s = maturity_s(rule)
        window = Window(0.0, row.created_at - age_s, age_s, newest_first=True)
        before = [reward.reward for reward in live_rewards(session, row.from_version, window, rule.window)]
        now = Arm(row.to_version, row.created_at, age_s, rule.window)
        return cls(row.id, read_rules(session), rule, before, now)


@dataclass(frozen=True, slots=True)
class Tried:
    """A canary against the champion."""

    row_id: int
    """The canary's row in the ledger."""
    rules: Rules
    """How rewards count."""
    rule: WatchSettings
    """The settings, with the age at which rewards are read."""
    earlier: Earlier | None
    """With `canary.by = "key"`, each key's rewards of the champion that were mature when the canary began."""
    champion: Arm
    candidate: Arm

    @classmethod
    def begin(
        cls, session: Session, row: PromotionRow, watch: WatchSettings, canary: CanarySettings, pointers: Pointers
    ) -> Tried:
        """Read the earlier rewards, if they are compared."""
        assert row.from_version is not None
        champion, candidate, began = row.to_version, row.from_version, row.created_at
        rule = _with_maturity(session, watch, champion, began, canary.max_hours / 2)
        age_s = maturity_s(rule)

        def drawn(reward: LiveReward) -> bool:
            return pointers.draws(candidate, episode_id=reward.episode_id, owner_hash=reward.owner_hash)

        earlier: defaultdict[str, list[float]] = defaultdict(list)
        if canary.by == "key":
            window = Window(0.0, began - age_s, age_s, newest_first=True)
            for reward in live_rewards(session, champion, window, min(MOST, wanted_earlier(canary))):
                earlier[reward.owner_hash].append(reward.reward)
        return cls(
            row.id,
            read_rules(session),
            rule,
            dict(earlier) if canary.by == "key" else None,
            # An episode that named its version counts only if it would have had that version anyway.
            Arm(champion, began, age_s, MOST, lambda reward: not drawn(reward)),
            Arm(candidate, began, age_s, MOST, drawn),
        )


def maturity_s(rule: WatchSettings) -> float:
    """Return the age in seconds at which rewards are read, once it is chosen."""
    assert rule.maturity_h is not None
    return rule.maturity_h * HOUR_S


def _with_maturity(
    session: Session, watch: WatchSettings, version: int, began: float, most_h: float | None = None
) -> WatchSettings:
    """Return the settings with an age: the given one, or one of the delays of a version's earlier rewards."""
    if watch.maturity_h is not None:
        return watch
    age_h = maturity(observed_delays(session, version, began)) / HOUR_S
    return watch.model_copy(update={"maturity_h": age_h if most_h is None else min(age_h, most_h)})
