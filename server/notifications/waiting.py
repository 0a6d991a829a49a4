"""Derives events from runs that wait: for a learner, a decision, a window, or episodes. It only reads."""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.notifications.events import Event
from server.store.tables import BatchRow, NotificationRow, NotificationTargetRow, RunRow

HOUR_S = 3600.0
AFTER_START_S = 600.0
"""After its start a server gives runs this long to continue, or the limit if that is shorter."""


def from_waiting(session: Session, target: NotificationTargetRow, limit_s: float, now: float) -> Iterator[Event]:
    """Yield the unfinished runs that have not begun a step for a time, and that a target has not been told of.

    A run that continues and waits again is a new event.

    Args:
        session: the database.
        target: the target, with the time from which on it is told.
        limit_s: the time, in seconds.
        now: Unix time.
    """
    newest = sa.select(sa.func.max(BatchRow.created_at)).where(BatchRow.run_id == RunRow.id).scalar_subquery()
    unfinished = sa.select(RunRow, newest).where(RunRow.state.in_(("queued", "running", "paused")))
    for row, began in session.execute(unfinished.order_by(RunRow.id)):
        since = max(row.resumed_at or row.created_at, began or 0.0)
        key = f"waiting:{row.id}:{since:.0f}"
        if now - since < limit_s or since + limit_s < target.since or _told(session, key, target.name):
            continue
        hours, why = (now - since) / HOUR_S, _reason(session, row, now)
        yield Event(
            type="run.waiting",
            key=key,
            at=since + limit_s,
            text=f"run {row.id} has not begun a step for {hours:.3g} h: {why}",
            run=row.id,
            version=row.last_version,
            reason=why,
            figures={"steps": row.step, "waiting_h": hours},
            path=f"/v1/runs/{row.id}",
        )


def _reason(session: Session, row: RunRow, now: float) -> str:
    """Return what a run waits for."""
    if row.state == "paused":
        return f"it is paused ({row.reason or 'no reason given'}); resume or cancel it"
    if row.state == "running":
        if row.learner is None or (row.lease_until or 0.0) < now:
            return "its learner is gone and no other has claimed it; start a learner or cancel it"
        return f"step {row.step} waits for its episodes or is still being trained; see its learner's log"
    other = session.scalar(
        sa.select(RunRow.id).where(sa.or_(RunRow.state == "running", _undecided()), RunRow.id != row.id).limit(1)
    )
    if other is not None:
        return f"it is queued behind run {other}, which is running or not decided"
    paused = sa.select(RunRow.id).where(
        RunRow.campaign_id == row.campaign_id, RunRow.state == "paused", RunRow.started_at.is_not(None)
    )
    if row.started_at is None and (before := session.scalar(paused.limit(1))) is not None:
        return f"run {before} of its campaign is paused and must end first; resume or cancel that one"
    return "no learner has claimed it; start one or cancel the run"


def _undecided() -> sa.ColumnElement[bool]:
    due = sa.and_(RunRow.gate == "due", RunRow.ended_at.is_not(None))
    return sa.or_(due, RunRow.gate == "canary")


def _told(session: Session, key: str, target: str) -> bool:
    told = sa.select(NotificationRow.number).where(NotificationRow.key == key, NotificationRow.target == target)
    return session.scalar(told.limit(1)) is not None
