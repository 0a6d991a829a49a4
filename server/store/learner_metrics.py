"""Reads what learners reported of their steps."""

from __future__ import annotations

from collections import defaultdict

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.store.tables import MetricRow


def metrics_by_step(session: Session, run_id: str, first: int = 0) -> dict[int, dict[str, float]]:
    """Return the metrics of a run's learner steps by step and name, from the step `first` on; empty for other steps."""
    query = sa.select(MetricRow.step, MetricRow.name, MetricRow.value)
    found: dict[int, dict[str, float]] = defaultdict(dict)
    for step, name, value in session.execute(query.where(MetricRow.run_id == run_id, MetricRow.step >= first)):
        found[step][name] = value
    return found
