"""The nights of a campaign, as its runs and the gate's decisions record them."""

from __future__ import annotations

import asyncio

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.store.database import Database
from server.store.tables import BatchRow, CampaignRow, PolicyVersionRow, PromotionRow, RunRow
from server.training.campaigns.beginnings import get_campaign, next_beginning
from upturn.wire import CampaignView, Night, Outcome

_OUTCOMES: dict[str, Outcome] = {
    "due": "open",
    "canary": "open",
    "promoted": "promote",
    "continued": "continue",
    "rejected": "revert",
}


class Campaigns:
    """Reads campaigns."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def views(self) -> list[CampaignView]:
        """Return all campaigns without their nights, newest first."""

        def read() -> list[CampaignView]:
            with self._database.read() as session:
                rows = session.scalars(sa.select(CampaignRow).order_by(CampaignRow.id.desc())).all()
                return [_view(session, row, []) for row in rows]

        return await asyncio.to_thread(read)

    async def view(self, name: str) -> CampaignView:
        """Return a campaign with its nights.

        Raises:
            NotFound: no campaign has this name.
        """

        def read() -> CampaignView:
            with self._database.read() as session:
                row = get_campaign(session, name)
                return _view(session, row, nights_of(session, row.id))

        return await asyncio.to_thread(read)


def outcome_of(run: RunRow, change: str | None = None) -> Outcome:
    """Return what a run meant for its campaign.

    Args:
        run: the run.
        change: the last change of the champion to or from a version of the run, `promote` or `rollback`; None if there
            is none.
    """
    if run.ended_at is None:
        return "open"
    if change == "rollback":
        return "revert"
    if change == "promote" and run.gate in (None, "void"):  # By hand.
        return "promote"
    if run.collapsed and run.gate != "due":
        return "revert"
    if run.gate in _OUTCOMES:
        return _OUTCOMES[run.gate]
    return "nothing" if run.last_version is None else "continue"


def _view(session: Session, row: CampaignRow, nights: list[Night]) -> CampaignView:
    beginning = next_beginning(session, row.id)
    return CampaignView(
        id=row.id,
        name=row.name,
        created_at=row.created_at,
        step=beginning.first_step,
        attempt=beginning.attempt,
        follows=beginning.run_id,
        nights=nights,
    )


def _changes(session: Session, campaign_id: str) -> dict[str, str]:
    """Return the last promotion or rollback of a version of each run, if there is one."""
    concerned = sa.case((PromotionRow.action == "rollback", PromotionRow.from_version), else_=PromotionRow.to_version)
    query = (
        sa.select(RunRow.id, PromotionRow.action)
        .join(PolicyVersionRow, PolicyVersionRow.version == concerned)
        .join(RunRow, RunRow.id == PolicyVersionRow.run_id)
        .where(RunRow.campaign_id == campaign_id, PromotionRow.action.in_(("promote", "rollback")))
        .order_by(PromotionRow.id)
    )
    return dict(session.execute(query).all())


def nights_of(session: Session, campaign_id: str) -> list[Night]:
    """Return a campaign's nights, oldest first."""
    runs = session.scalars(sa.select(RunRow).where(RunRow.campaign_id == campaign_id).order_by(RunRow.id)).all()
    of_campaign = BatchRow.run_id.in_(sa.select(RunRow.id).where(RunRow.campaign_id == campaign_id))
    trained = sa.select(BatchRow.run_id, BatchRow.horizon, BatchRow.published).where(
        of_campaign, BatchRow.state == "trained"
    )
    changes = _changes(session, campaign_id)
    horizons: dict[str, int] = {}
    published: dict[str, int] = {}
    for run_id, horizon, was_published in session.execute(trained.order_by(BatchRow.step)):
        horizons[run_id] = horizon
        published[run_id] = published.get(run_id, 0) + was_published
    return [
        Night(
            run_id=run.id,
            state=run.state,
            outcome=outcome_of(run, changes.get(run.id)),
            first_step=run.first_step,
            steps=run.step,
            trained_steps=published.get(run.id, 0),
            horizon=horizons.get(run.id),
            last_version=run.last_version,
            reason=run.reason,
            started_at=run.started_at,
            ended_at=run.ended_at,
        )
        for run in runs
    ]
