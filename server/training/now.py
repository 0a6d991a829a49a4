"""What training is doing now, and whether champions earn more than those before them. Blocks on the database."""

from __future__ import annotations

import sqlite3
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.store.tables import BatchRow, CampaignRow, EpisodeRow, PlayRow, PromotionRow, RunRow
from server.training.run_states import UNFINISHED, undecided
from upturn.wire import NextRun, ScheduleView, TrainingNow, Trend

CHAMPIONS = 5
"""Champions that are compared."""
_ORDER = sa.case((RunRow.state == "running", 0), (RunRow.state == "queued", 1), else_=2)
_TREND = """
    SELECT count(*), avg(success), avg(reward) FROM episode
    WHERE opened_at >= :since AND version = :version AND play IS NULL AND turns > 0"""
"""Episodes without a turn were played by something else, such as another model that the leaderboard measures."""


def training_now(session: Session) -> TrainingNow | None:
    """Return the run in progress, otherwise the newest that is queued or paused."""
    run = session.scalar(
        sa.select(RunRow).where(RunRow.state.in_(UNFINISHED)).order_by(_ORDER, RunRow.id.desc()).limit(1)
    )
    if run is None:
        return None
    batch = session.execute(
        sa.select(BatchRow.id, BatchRow.step, BatchRow.state, BatchRow.horizon, BatchRow.play_id)
        .where(BatchRow.run_id == run.id)
        .order_by(BatchRow.step.desc())
        .limit(1)
    ).first()
    gathering = batch is not None and batch.state == "gathering" and batch.step == run.step
    played, episodes = _progress(session, batch) if batch is not None and gathering else (None, None)
    campaign, night = _night(session, run)
    return TrainingNow(
        run_id=run.id,
        state=run.state,
        campaign=campaign,
        night=night,
        step=run.step,
        steps=run.config["steps"],
        global_step=run.first_step + run.step,
        horizon=None if batch is None else batch.horizon,
        doing=_doing(run, "plays" if gathering else "trains"),
        played=played,
        episodes=episodes,
    )


def undecided_run(session: Session) -> str | None:
    """Return an ended run whose promotion is being decided."""
    waiting = session.scalar(undecided().limit(1))
    if waiting is not None:
        return waiting.id
    return session.scalar(sa.select(RunRow.id).where(RunRow.gate == "canary").limit(1))


def failed_run(session: Session) -> tuple[str, str] | None:
    """Return id and reason of the newest run if it has failed."""
    row = session.execute(sa.select(RunRow.id, RunRow.state, RunRow.reason).order_by(RunRow.id.desc()).limit(1)).first()
    return (row.id, row.reason or "no reason is recorded") if row is not None and row.state == "failed" else None


def next_run(schedule: ScheduleView) -> NextRun | None:
    """Return what starts the next run: the trigger that has waited longest, otherwise the next by time."""
    due = [trigger for trigger in schedule.triggers if trigger.due_since is not None]
    timed = [trigger for trigger in schedule.triggers if trigger.next_at is not None]
    if due:
        chosen = min(due, key=lambda trigger: trigger.due_since or 0.0)
    elif timed:
        chosen = min(timed, key=lambda trigger: trigger.next_at or 0.0)
    elif schedule.triggers:
        chosen = schedule.triggers[0]
    else:
        return None
    return NextRun(
        trigger=chosen.name, at=None if chosen.due_since is not None else chosen.next_at, waits_for=chosen.waits_for
    )


def champions(session: Session) -> list[int]:
    """Return the champion and those before it, newest first, each once."""
    query = sa.select(PromotionRow.to_version).where(
        PromotionRow.action.in_(("first", "publish", "promote", "rollback"))
    )
    found = session.scalars(query.order_by(PromotionRow.id.desc()).limit(20 * CHAMPIONS))
    return list(dict.fromkeys(found))[:CHAMPIONS]


def trend(index: sqlite3.Connection, versions: list[int], since: float) -> list[Trend]:
    """Return what the live episodes of some versions earned that were opened since a time, from the index."""
    found = []
    for version in versions:
        episodes, success, reward = index.execute(_TREND, {"since": since, "version": version}).fetchone()
        found.append(Trend(version=version, episodes=episodes, success_rate=success, mean_reward=reward))
    return found


def open_episodes(session: Session) -> int:
    """Return how many episodes are open."""
    count = sa.select(sa.func.count()).select_from(EpisodeRow).where(EpisodeRow.status == "open")
    return session.scalar(count) or 0


def _doing(run: RunRow, doing: str) -> str:
    if run.state == "paused":
        return run.reason or "paused"
    return doing if run.state == "running" and run.learner is not None else "waits for a learner"


def _night(session: Session, run: RunRow) -> tuple[str | None, int | None]:
    """Return the name of a run's campaign, and which of its runs it is, from 1."""
    if run.campaign_id is None:
        return None, None
    earlier = sa.select(sa.func.count()).select_from(RunRow)
    return (
        session.scalar(sa.select(CampaignRow.name).where(CampaignRow.id == run.campaign_id)),
        session.scalar(earlier.where(RunRow.campaign_id == run.campaign_id, RunRow.id <= run.id)),
    )


def _progress(session: Session, batch: Any) -> tuple[int | None, int | None]:
    """Return the finished episodes of a batch's plays, and all of them; None before there is a play."""
    plays = session.execute(
        sa.select(PlayRow.id, PlayRow.request).where(sa.or_(PlayRow.id == batch.play_id, PlayRow.batch_id == batch.id))
    ).all()
    if not plays:
        return None, None
    total = 0
    for play in plays:
        tasks = [*play.request.get("tasks", ()), *(t for also in play.request.get("also", {}).values() for t in also)]
        total += len(tasks) * int(play.request.get("group_size", 1))
    ended = (
        sa.select(sa.func.count())
        .select_from(EpisodeRow)
        .where(EpisodeRow.play_id.in_([play.id for play in plays]), EpisodeRow.status != "open")
    )
    return session.scalar(ended) or 0, total
