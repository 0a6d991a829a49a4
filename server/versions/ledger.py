"""The ledger of champions: what its rows say, and the decisions that become rows. The swap alone writes them."""

from __future__ import annotations

import time

import sqlalchemy as sa
from pydantic import TypeAdapter
from sqlalchemy.orm import Session

from server.errors import NotFound
from server.store.database import Database
from server.store.tables import PolicyVersionRow, PromotionRow, RunRow
from upturn.wire import GateEvidence, LiveEvidence, PromotionView

BY_SWAP, BY_GATE, BY_CANARY, BY_WATCH = "swap", "gate", "canary", "watch"
Evidence = GateEvidence | LiveEvidence
EVIDENCE: TypeAdapter[Evidence] = TypeAdapter(Evidence)


def entry(
    before: int | None,
    to: int,
    action: str,
    reason: str,
    by: str,
    *,
    run_id: str | None = None,
    evidence: Evidence | None = None,
) -> PromotionRow:
    """Return a new row."""
    return PromotionRow(
        from_version=before,
        to_version=to,
        action=action,
        reason=reason,
        decided_by=by,
        run_id=run_id,
        evidence=None if evidence is None else evidence.model_dump(mode="json"),
        created_at=time.time(),
    )


def champion(session: Session) -> int:
    """Return the version that live traffic gets."""
    return session.scalars(sa.select(PromotionRow.to_version).order_by(PromotionRow.id.desc()).limit(1)).one()


def head(session: Session) -> int:
    """Return the newest trained version; where that was rejected or taken back by the watch, the champion."""
    rejected = sa.select(sa.func.max(PromotionRow.from_version)).where(
        sa.or_(
            PromotionRow.action == "reject",
            sa.and_(PromotionRow.action == "rollback", PromotionRow.decided_by == BY_WATCH),
        )
    )
    newest = session.scalar(
        sa.select(sa.func.max(PolicyVersionRow.version)).where(
            PolicyVersionRow.state == "ready",
            PolicyVersionRow.version > sa.func.coalesce(rejected.scalar_subquery(), -1),
        )
    )
    return champion(session) if newest is None else newest


def standing(session: Session) -> PromotionRow:
    """Return the row that made the champion what it is, not counting what runs with a gate publish on the way."""
    on_the_way = sa.and_(PromotionRow.action == "publish", RunRow.gate.is_not(None))
    query = (
        sa.select(PromotionRow)
        .outerjoin(PolicyVersionRow, PolicyVersionRow.version == PromotionRow.to_version)
        .outerjoin(RunRow, RunRow.id == PolicyVersionRow.run_id)
        .where(sa.not_(on_the_way), PromotionRow.action.not_in(("canary", "reject")))
        .order_by(PromotionRow.id.desc())
        .limit(1)
    )
    return session.scalars(query).one()


def approved(session: Session) -> int:
    """Return the champion, not counting what runs with a gate have published into live traffic on the way."""
    return standing(session).to_version


def canary(session: Session) -> PromotionRow | None:
    """Return the row of the canary in progress: whatever is decided afterwards has ended it."""
    newest = session.scalars(sa.select(PromotionRow).order_by(PromotionRow.id.desc()).limit(1)).one()
    return newest if newest.action == "canary" else None


def champion_before(session: Session, version: int) -> int | None:
    """Return the champion before a version became it; rejected candidates never were, and rollbacks do not count."""
    return session.scalar(
        sa.select(PromotionRow.from_version)
        .where(
            PromotionRow.to_version == version,
            PromotionRow.from_version != version,
            PromotionRow.action.in_(("publish", "promote")),
        )
        .order_by(PromotionRow.id.desc())
        .limit(1)
    )


def change(session: Session, before: int, to: int, action: str, reason: str, by: str) -> None:
    """Record a change of the champion by hand; a canary in progress has nothing more to decide."""
    end_canary(session, "void")
    session.add(entry(before, to, action, reason, by))


def end_canary(session: Session, gate: str) -> None:
    """Say what became of the run whose candidate is in the canary."""
    session.execute(sa.update(RunRow).where(RunRow.gate == "canary").values(gate=gate))


def settle(session: Session, run_id: str, evidence: GateEvidence, champion: int, *, canary: bool) -> bool:
    """Record a decision of the gate; return False where the run has one, or its candidate is champion by hand.

    A candidate that is approved becomes the champion, or the canary.
    """
    run = session.get_one(RunRow, run_id)
    if run.gate != "due":
        return False
    if champion == evidence.candidate:
        run.gate = "void"
        return False
    if evidence.objections:
        run.gate, before, to, action = "rejected", evidence.candidate, champion, "reject"
        reason = "; ".join(evidence.objections)
    else:
        gain = evidence.gain
        reason = f"mean gain {gain.mean:+.3f}, from {gain.low:+.3f} to {gain.high:+.3f}" if gain else ""
        if canary:
            run.gate, before, to, action = "canary", evidence.candidate, champion, "canary"
        else:
            run.gate, before, to, action = "promoted", champion, evidence.candidate, "promote"
    session.add(entry(before, to, action, reason, BY_GATE, run_id=run_id, evidence=evidence))
    return True


def settle_canary(session: Session, row_id: int, *, promote: bool, reason: str, evidence: LiveEvidence | None) -> bool:
    """Record what became of a canary; return False where that is over."""
    row = canary(session)
    if row is None or row.id != row_id or row.from_version is None:
        return False
    end_canary(session, "promoted" if promote else "rejected")
    before, to = (row.to_version, row.from_version) if promote else (row.from_version, row.to_version)
    session.add(
        entry(before, to, "promote" if promote else "reject", reason, BY_CANARY, run_id=row.run_id, evidence=evidence)
    )
    return True


def take_back(session: Session, row_id: int, reason: str, evidence: LiveEvidence) -> bool:
    """Record that a promotion is taken back; return False where another version has become the champion meanwhile."""
    row = standing(session)
    if row.id != row_id or row.from_version is None:
        return False
    end_canary(session, "void")
    session.add(
        entry(row.to_version, row.from_version, "rollback", reason, BY_WATCH, run_id=row.run_id, evidence=evidence)
    )
    return True


def entries(database: Database, limit: int) -> list[PromotionView]:
    """Return the newest rows, newest first. Reads the database: not for the event loop."""
    with database.read() as session:
        return [
            _view(row) for row in session.scalars(sa.select(PromotionRow).order_by(PromotionRow.id.desc()).limit(limit))
        ]


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
    evidence = None if row.evidence is None else EVIDENCE.validate_python(row.evidence)
    return PromotionView(
        id=row.id,
        from_version=row.from_version,
        to_version=row.to_version,
        action=row.action,  # type: ignore[arg-type]
        reason=row.reason,
        decided_by=row.decided_by,
        run_id=row.run_id,
        evidence=evidence,
        created_at=row.created_at,
    )
