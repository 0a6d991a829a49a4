"""A run's budget, checked in the transaction that acknowledges a learner step."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.store.tables import MetricRow, RunRow
from server.training.outcome import with_outcome
from server.training.run_states import active_s, close_run
from upturn.wire import RunConfig


def end_if_spent(session: Session, run: RunRow, now: float) -> None:
    """End a run as done if a part of its budget is used up; its learner learns of it at its next call."""
    budget = RunConfig.model_validate(run.config).budget
    session.flush()
    tokens = (
        session.scalar(
            sa.select(sa.func.sum(MetricRow.value)).where(
                MetricRow.run_id == run.id, MetricRow.name == "trained_tokens"
            )
        )
        or 0.0
    )
    minutes = active_s(run, now) / 60
    spent = None
    if budget.steps is not None and run.step >= budget.steps:
        spent = f"budget: {run.step} of {budget.steps} learner steps are used"
    elif budget.minutes is not None and minutes >= budget.minutes:
        spent = f"budget: {minutes:.1f} of {budget.minutes:g} minutes are used"
    elif budget.tokens is not None and tokens >= budget.tokens:
        spent = f"budget: {tokens:.0f} of {budget.tokens} trained tokens are used"
    if spent is not None:
        close_run(run, "done", with_outcome(session, run.id, spent), now)
