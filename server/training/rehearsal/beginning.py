"""Rehearses the beginning of a run: its config, and the state that its campaign continues."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.store.tables import CampaignRow
from server.training.campaigns.beginnings import Beginning, next_beginning
from server.training.rehearsal.report import Finding, ok
from server.training.runs import Runs
from server.versions.routing import Pointers
from upturn.wire import RunConfig, RunFollows, RunView


def config_findings(runs: Runs, config: RunConfig) -> list[Finding]:
    """Return what a run trains.

    Args:
        runs: checks it as a requested run.
        config: the resolved config.

    Raises:
        BadRequest: the server refuses it.
    """
    runs.check(config)
    return [ok(f"{config.algorithm}, {config.kind} weights, learning rate {config.lr:g}, {config.steps} steps")]


def beginning_of(session: Session, config: RunConfig) -> Beginning:
    """Return where a run would begin that starts now."""
    if config.campaign is None:
        return Beginning()
    known = session.scalar(sa.select(CampaignRow.id).where(CampaignRow.name == config.campaign))
    return Beginning() if known is None else next_beginning(session, known)


def beginning_text(config: RunConfig, beginning: Beginning) -> str:
    """Return in words where a run begins."""
    if config.campaign is None:
        return "a run by itself: it begins with the newest version and a new optimizer"
    back = f"; it has gone back {beginning.attempt} times" if beginning.attempt else ""
    if beginning.run_id is None:
        return f"campaign {config.campaign} begins with the champion's weights and a new optimizer{back}"
    return (
        f"campaign {config.campaign} continues after global step {beginning.first_step}, with the state of run "
        f"{beginning.run_id} after {beginning.step} steps{back}"
    )


def run_to_rehearse(
    config: RunConfig, beginning: Beginning, runs: Runs, pointers: Pointers, precision: str | None
) -> RunView:
    """Return the run as a learner would claim it now. No row says so."""
    follows = None
    if beginning.run_id is not None and beginning.step is not None:
        follows = RunFollows(run_id=beginning.run_id, step=beginning.step)
    return RunView(
        id="rehearsal",
        state="running",
        trigger="rehearsal",
        config=config,
        step=0,
        reason=None,
        learner=None,
        first_step=beginning.first_step,
        follows=follows,
        attempt=beginning.attempt,
        first_version=pointers.head if config.campaign is None else pointers.champion,
        last_version=None,
        precision=precision,  # type: ignore[arg-type]
        created_at=runs.clock(),
        started_at=None,
        ended_at=None,
        steps=[],
    )
