"""The reason with which a run ends: it says how many of its steps had nothing to learn, and why."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.store.learner_metrics import metrics_by_step
from server.store.tables import BatchRow
from upturn.outcome import nothing_to_learn, outcome


def with_outcome(session: Session, run_id: str, reason: str) -> str:
    """Return the reason of a run that is done; if steps had nothing to learn, with their number and why.

    A run that trained on nothing begins with that.
    """
    steps = sa.select(BatchRow.step).where(BatchRow.run_id == run_id, BatchRow.state == "trained")
    trained = {step: dict[str, float]() for step in session.scalars(steps.order_by(BatchRow.step))}
    metrics = trained | metrics_by_step(session, run_id)
    skipped = [bool(nothing_to_learn(figures)) for figures in metrics.values()]
    if not any(skipped):
        return reason
    what = outcome(list(metrics.values()))
    return f"{what} ({reason})" if all(skipped) else f"{reason}; {what}"
