"""How external rewards count: each source has a rule, applied when rewards are read. Stored rows never change.

An episode's reward is the sum of its environment's rewards plus, for each source that counts, the source's weight times
the sum of its rewards, clipped to the source's cap.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.store.tables import RewardRow, RewardSourceRow
from upturn.wire import RewardRule

OTHERS = "*"
"""Name of the rule for all sources without a rule of their own."""


class Rules:
    """The rules of all sources."""

    def __init__(self, own: Mapping[str, RewardRule]) -> None:
        self._own = dict(own)
        self._others = self._own.pop(OTHERS, RewardRule())

    def __eq__(self, other: object) -> bool:
        """Return whether both count every source alike."""
        return isinstance(other, Rules) and (self._own, self._others) == (other._own, other._others)

    def of(self, source: str) -> RewardRule:
        """Return the rule that applies to a source."""
        return self._own.get(source, self._others)

    def total(self, steps: Iterable[float], rewards: Iterable[tuple[str, float]]) -> float | None:
        """Return an episode's reward, or None if nothing counts (which differs from 0).

        Args:
            steps: rewards of the environment's steps.
            rewards: (source, value) of external rewards.
        """
        terms = [*steps, *self.by_source(rewards).values()]
        return sum(sorted(terms)) if terms else None  # Sorted, so that the order of rows cannot change the result.

    def by_source(self, rewards: Iterable[tuple[str, float]]) -> dict[str, float]:
        """Return what each source that counts adds to an episode's reward.

        Args:
            rewards: (source, value) of external rewards.
        """
        given = defaultdict[str, list[float]](list)
        for source, value in rewards:
            given[source].append(value)
        added: dict[str, float] = {}
        for source, values in given.items():
            rule = self.of(source)
            if rule.counts:
                total = sum(sorted(values))
                added[source] = rule.weight * (total if rule.cap is None else max(-rule.cap, min(rule.cap, total)))
        return added

    def counted(self) -> sa.ColumnElement[bool]:
        """Return the SQL condition that selects reward rows that count."""
        exceptions = [name for name, rule in self._own.items() if rule.counts != self._others.counts]
        return RewardRow.source.not_in(exceptions) if self._others.counts else RewardRow.source.in_(exceptions)


def read_rules(session: Session) -> Rules:
    """Return the current rules."""
    return Rules({row.name: rule_of(row) for row in session.scalars(sa.select(RewardSourceRow))})


def rule_of(row: RewardSourceRow) -> RewardRule:
    """Return the rule stored in a row."""
    return RewardRule(weight=row.weight, cap=row.cap, blocked=row.blocked)
