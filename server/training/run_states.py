"""The states of a run's row, and the functions that change them."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from server.errors import Conflict, NotFound
from server.store.database import new_id
from server.store.tables import RunRow
from server.training.campaigns.beginnings import campaign_named
from upturn.wire import RunConfig

SLOT = "learner"
"""Value of the unique column that only the running run has."""
UNFINISHED = ("queued", "running", "paused")


def hold(session: Session, run_id: str, learner: str) -> RunRow:
    """Return a run that this learner holds.

    Raises:
        NotFound: no such run.
        Conflict: the run was cancelled or paused, has ended, or is held by another learner.
    """
    row = get_run(session, run_id)
    if row.state == "cancelled":
        raise Conflict(f"run {run_id} was cancelled", code="run_cancelled")
    if row.state in ("queued", "paused"):
        raise Conflict(f"run {run_id} has no learner: it is {row.state}", code="lease_lost")
    if row.state != "running":
        raise Conflict(f"run {run_id} is {row.state}", code="run_ended")
    if row.learner is None:
        raise Conflict(f"run {run_id} waits for a learner: the last one gave it back", code="lease_lost")
    if row.learner != learner:
        raise Conflict(f"run {run_id} is held by {row.learner!r}", code="lease_lost")
    return row


def get_run(session: Session, run_id: str) -> RunRow:
    """Return a run.

    Raises:
        NotFound: no such run.
    """
    row = session.get(RunRow, run_id)
    if row is None:
        raise NotFound(f"no run {run_id!r}", code="run_not_found")
    return row


def unfinished(session: Session, run_id: str) -> RunRow:
    """Return a run that has not ended.

    Raises:
        NotFound: no such run.
        Conflict: the run has ended.
    """
    row = get_run(session, run_id)
    if row.state not in UNFINISHED:
        raise Conflict(f"run {run_id} has ended ({row.state})", code="run_ended")
    return row


def new_run(session: Session, config: RunConfig, trigger: str, now: float) -> RunRow:
    """Add and return the row of a new queued run, and its campaign if that is new."""
    row = RunRow(
        id=new_id("run"),
        state="queued",
        trigger=trigger,
        config=config.model_dump(mode="json"),
        step=0,
        active_s=0.0,
        gate="due" if config.evaluation else None,
        campaign_id=None if config.campaign is None else campaign_named(session, config.campaign, now),
        created_at=now,
    )
    session.add(row)
    return row


def pause_run(row: RunRow, reason: str, now: float) -> None:
    """Pause an unfinished run and take it from its learner."""
    if row.state == "running":
        stop_clock(row, now)
    row.state, row.reason, row.slot, row.learner, row.lease_until = "paused", reason, None, None, None


def resume_run(row: RunRow, now: float) -> None:
    """Queue a paused run."""
    if row.state == "paused":
        row.state, row.reason, row.resumed_at = "queued", None, now


def close_run(row: RunRow, state: str, reason: str, now: float) -> None:
    """End a run."""
    if row.state == "running":
        stop_clock(row, now)
    row.state, row.reason, row.slot, row.lease_until, row.ended_at = state, reason, None, None, now


def active_s(row: RunRow, now: float) -> float:
    """Return the running time of a run in seconds, without pauses."""
    began = row.resumed_at if row.state == "running" else None
    return row.active_s + (max(0.0, now - began) if began is not None else 0.0)


def stop_clock(row: RunRow, now: float) -> None:
    """Add the time since the run was last started to its running time."""
    row.active_s, row.resumed_at = active_s(row, now), now


def claimable_run(session: Session, learner: str, run_id: str | None, now: float) -> RunRow | None:
    """Return the run that a learner may claim: the run whose learner was lost, otherwise the oldest queued one."""
    running = session.scalar(sa.select(RunRow).where(RunRow.slot == SLOT))
    if running is not None:
        lost = (running.lease_until or 0) <= now or running.learner == learner
        return running if lost and run_id in (None, running.id) else None
    tried = sa.select(RunRow.id).where(RunRow.gate == "canary")
    if session.scalar(undecided().limit(1)) is not None or session.scalar(tried.limit(1)) is not None:
        return None  # The evaluation needs the current versions, and the next run builds on its decision.
    due = sa.select(RunRow).where(RunRow.state == "queued", ~_waits_for_campaign()).order_by(RunRow.id).limit(1)
    return session.scalar(due if run_id is None else due.where(RunRow.id == run_id))


def _waits_for_campaign() -> sa.ColumnElement[bool]:
    """Return the condition that a run has not started, and that another run of its campaign has not ended."""
    other = aliased(RunRow)
    return sa.and_(
        RunRow.started_at.is_(None),
        sa.exists().where(
            other.campaign_id == RunRow.campaign_id, other.started_at.is_not(None), other.ended_at.is_(None)
        ),
    )


def undecided() -> sa.Select[RunRow]:
    """Return the query of ended runs that wait for the promotion gate, earliest end first."""
    return sa.select(RunRow).where(RunRow.gate == "due", RunRow.ended_at.is_not(None)).order_by(RunRow.ended_at)
