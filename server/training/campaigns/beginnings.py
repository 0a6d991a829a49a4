"""Campaigns: which state a run continues. A pure function of the recorded runs and the ledger of champions.

A run continues where the campaign's last run ended, whether or not that run's candidate was promoted. It goes back to
the state behind the champion if the gate, the canary or the watch rejected that candidate, or if the run collapsed.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.errors import NotFound
from server.store.database import new_id
from server.store.tables import CampaignRow, PolicyVersionRow, PromotionRow, RunRow
from server.versions import ledger


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where a run of a campaign begins."""

    run_id: str | None = None
    """The run whose state it continues; None begins with the champion's weights and a new optimizer."""
    step: int | None = None
    """Number of that run's steps after which its state is continued."""
    first_step: int = 0
    """Global learner step of the new run's step 0."""
    attempt: int = 0
    """How often the campaign has gone back."""


def campaign_named(session: Session, name: str, now: float) -> str:
    """Return the id of a campaign, which is created if it does not exist."""
    found = session.scalar(sa.select(CampaignRow.id).where(CampaignRow.name == name))
    if found is None:
        found = new_id("campaign")
        session.add(CampaignRow(id=found, name=name, created_at=now))
        session.flush()
    return found


def get_campaign(session: Session, name: str) -> CampaignRow:
    """Return a campaign.

    Raises:
        NotFound: no campaign has this name.
    """
    row = session.scalar(sa.select(CampaignRow).where(CampaignRow.name == name))
    if row is None:
        raise NotFound(f"no campaign {name!r}", code="campaign_not_found")
    return row


def begin(session: Session, run: RunRow) -> None:
    """Record in a run that starts which state it continues; a run by itself continues none."""
    if run.campaign_id is None:
        return
    beginning = next_beginning(session, run.campaign_id)
    run.ledger_id = session.scalar(sa.select(sa.func.max(PromotionRow.id)))
    run.follows_id, run.follows_step = beginning.run_id, beginning.step
    run.first_step, run.attempt = beginning.first_step, beginning.attempt


def next_beginning(session: Session, campaign_id: str) -> Beginning:
    """Return where the campaign's next run begins."""
    last = last_run(session, campaign_id)
    if last is None:
        return Beginning()
    if _went_wrong(session, last):
        return _behind(session, campaign_id, last.attempt + 1)
    if last.step == 0:
        return Beginning(last.follows_id, last.follows_step, last.first_step, last.attempt)
    return Beginning(last.id, last.step, last.first_step + last.step, last.attempt)


def last_run(session: Session, campaign_id: str) -> RunRow | None:
    """Return the campaign's last run that has started.

    Reverts and global steps tell which it is; the clock, which may be set back, only orders runs without a step.
    """
    return session.scalar(
        sa.select(RunRow)
        .where(RunRow.campaign_id == campaign_id, RunRow.started_at.is_not(None))
        .order_by(
            RunRow.attempt.desc(),
            RunRow.first_step.desc(),
            RunRow.step.desc(),
            RunRow.started_at.desc(),
            RunRow.id.desc(),
        )
        .limit(1)
    )


def _went_wrong(session: Session, run: RunRow) -> bool:
    """Return whether a run collapsed, or its candidate or its campaign's champion was rejected since it started."""
    if run.collapsed or run.gate == "rejected":
        return True
    since = PromotionRow.created_at >= run.started_at if run.ledger_id is None else PromotionRow.id > run.ledger_id
    undone = (
        sa.select(PromotionRow.id)
        .join(PolicyVersionRow, PolicyVersionRow.version == PromotionRow.from_version)
        .join(RunRow, RunRow.id == PolicyVersionRow.run_id)
        .where(
            PromotionRow.action == "rollback",
            since,
            RunRow.campaign_id == run.campaign_id,
        )
    )
    return session.scalar(undone.limit(1)) is not None


def _behind(session: Session, campaign_id: str, attempt: int) -> Beginning:
    """Return the beginning with the state behind the champion, if the campaign trained it."""
    version = session.get_one(PolicyVersionRow, ledger.approved(session))
    run = None if version.run_id is None else session.get(RunRow, version.run_id)
    if run is None or run.campaign_id != campaign_id:
        return Beginning(attempt=attempt)
    if version.step is None:  # The state with which its run began, published again.
        return Beginning(run.follows_id, run.follows_step, run.first_step, attempt)
    if run.collapsed and version.step >= run.step:  # A copy of its best version, by a learner that did not say which.
        return Beginning(attempt=attempt)
    last = session.scalar(sa.select(sa.func.max(PolicyVersionRow.step)).where(PolicyVersionRow.run_id == run.id))
    steps = run.step if version.step == last else version.step + 1  # Its last steps may have trained nothing.
    return Beginning(run.id, steps, run.first_step + steps, attempt)
