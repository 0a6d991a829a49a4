"""What rewards from outside count: each source by its rule, decided when it is read. The rows stay as they were given.

An episode's reward is the sum of its environment's and, for each source that counts, the weight times the source's sum,
which is first brought within the cap.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.store.tables import RewardRow, RewardSourceRow
from upturn.wire import RewardRule

OTHERS = "*"
"""Name of the rule for every source that has none of its own."""


class Rules:
    """The rules of all sources."""

    def __init__(self, own: Mapping[str, RewardRule]) -> None:
        self._own = dict(own)
        self._others = self._own.pop(OTHERS, RewardRule())

    def of(self, source: str) -> RewardRule:
        """Return the rule that holds for a source."""
        return self._own.get(source, self._others)

    def total(self, steps: Iterable[float], rewards: Iterable[tuple[str, float]]) -> float | None:
        """Return an episode's reward; None where nothing counts, which is not 0.

        Args:
            steps: the environment's.
            rewards: (source, value) of those from outside.
        """
        parts, given = list(steps), defaultdict[str, list[float]](list)
        for source, value in rewards:
            given[source].append(value)
        for source, values in given.items():
            rule = self.of(source)
            if rule.counts:
                total = sum(sorted(values))
                parts.append(rule.weight * (total if rule.cap is None else max(-rule.cap, min(rule.cap, total))))
        return sum(sorted(parts)) if parts else None  # Sorted: the order of rows changes nothing.

    def counted(self) -> sa.ColumnElement[bool]:
        """Return the condition under which a reward's row counts."""
        differing = [name for name, rule in self._own.items() if rule.counts != self._others.counts]
        return RewardRow.source.not_in(differing) if self._others.counts else RewardRow.source.in_(differing)


def read_rules(session: Session) -> Rules:
    """Return the rules as they are now."""
    return Rules({row.name: rule_of(row) for row in session.scalars(sa.select(RewardSourceRow))})


def rule_of(row: RewardSourceRow) -> RewardRule:
    """Return what a row says."""
    return RewardRule(weight=row.weight, cap=row.cap, blocked=row.blocked)
