"""The ledger of champions: what its rows say. The swap alone writes them."""

from __future__ import annotations

import time

import sqlalchemy as sa
from sqlalchemy.orm import Session

from clients.wire import GateEvidence, PromotionView
from server.errors import NotFound
from server.store.database import Database
from server.store.tables import PolicyVersionRow, PromotionRow, RunRow

BY_SWAP, BY_GATE = "swap", "gate"


def entry(before: int | None, to: int, action: str, reason: str, by: str, *, run_id: str | None = None,
          evidence: GateEvidence | None = None) -> PromotionRow:
    """Return a new row."""
    return PromotionRow(from_version=before, to_version=to, action=action, reason=reason, decided_by=by,
                        run_id=run_id, evidence=None if evidence is None else evidence.model_dump(mode="json"),
                        created_at=time.time())


def champion(session: Session) -> int:
    """Return the version that live traffic gets."""
    return session.scalars(sa.select(PromotionRow.to_version).order_by(PromotionRow.id.desc()).limit(1)).one()


def head(session: Session) -> int:
    """Return the newest trained version; after a rejection, until there is a newer one, the champion."""
    rejected = sa.select(sa.func.max(PromotionRow.from_version)).where(PromotionRow.action == "reject")
    newest = session.scalar(
        sa.select(sa.func.max(PolicyVersionRow.version)).where(
            PolicyVersionRow.state == "ready",
            PolicyVersionRow.version > sa.func.coalesce(rejected.scalar_subquery(), -1)))
    return champion(session) if newest is None else newest


def approved(session: Session) -> int:
    """Return the champion, not counting what runs with a gate have published into live traffic on the way."""
    on_the_way = sa.and_(PromotionRow.action == "publish", RunRow.gate.is_not(None))
    query = (sa.select(PromotionRow.to_version)
             .outerjoin(PolicyVersionRow, PolicyVersionRow.version == PromotionRow.to_version)
             .outerjoin(RunRow, RunRow.id == PolicyVersionRow.run_id)
             .where(sa.not_(on_the_way)).order_by(PromotionRow.id.desc()).limit(1))
    return session.scalars(query).one()


def champion_before(session: Session, version: int) -> int | None:
    """Return the champion before a version became it; rejected candidates never were, and rollbacks do not count."""
    return session.scalar(
        sa.select(PromotionRow.from_version).where(
            PromotionRow.to_version == version, PromotionRow.from_version != version,
            PromotionRow.action.in_(("publish", "promote"))).order_by(PromotionRow.id.desc()).limit(1))


def entries(database: Database, limit: int) -> list[PromotionView]:
    """Return the newest rows, newest first. Reads the database: not for the event loop."""
    with database.read() as session:
        return [_view(row) for row in session.scalars(
            sa.select(PromotionRow).order_by(PromotionRow.id.desc()).limit(limit))]


def read_entry(database: Database, number: int) -> PromotionView:
    """Return one row. Reads the database: not for the event loop.

    Raises:
        NotFound: there is none of this number.
    """
    with database.read() as session:
        row = session.get(PromotionRow, number)
    if row is None:
        raise NotFound(f"no promotion {number}", code="promotion_not_found")
    return _view(row)


def _view(row: PromotionRow) -> PromotionView:
    evidence = None if row.evidence is None else GateEvidence.model_validate(row.evidence)
    return PromotionView(id=row.id, from_version=row.from_version, to_version=row.to_version, action=row.action,  # type: ignore[arg-type]
                         reason=row.reason, decided_by=row.decided_by, run_id=row.run_id, evidence=evidence,
                         created_at=row.created_at)
