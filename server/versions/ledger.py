"""The ledger of champions: queries of its rows, and the decisions that become rows. Only `server/versions` writes them.

All functions read or write the database: not for the event loop.
"""

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


def new_entry(
    before: int | None,
    to: int,
    action: str,
    reason: str,
    by: str,
    *,
    run_id: str | None = None,
    evidence: Evidence | None = None,
) -> PromotionRow:
    """Return a new row, not yet in the session."""
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
    """Return the newest trained version; the champion if that was not promoted, or rolled back by the watch."""
    rejected = sa.select(sa.func.max(PromotionRow.from_version)).where(
        sa.or_(
            PromotionRow.action.in_(("continue", "reject")),
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


def approval(session: Session) -> PromotionRow:
    """Return the row that made the approved version the champion; versions that a gated run publishes do not count."""
    published_by_gated_run = sa.and_(PromotionRow.action == "publish", RunRow.gate.is_not(None))
    query = (
        sa.select(PromotionRow)
        .outerjoin(PolicyVersionRow, PolicyVersionRow.version == PromotionRow.to_version)
        .outerjoin(RunRow, RunRow.id == PolicyVersionRow.run_id)
        .where(sa.not_(published_by_gated_run), PromotionRow.action.not_in(("canary", "continue", "reject")))
        .order_by(PromotionRow.id.desc())
        .limit(1)
    )
    return session.scalars(query).one()


def approved(session: Session) -> int:
    """Return the champion, not counting versions that a gated run has published into live traffic."""
    return approval(session).to_version


def canary(session: Session) -> PromotionRow | None:
    """Return the row of the canary in progress, if any: any newer row has ended it."""
    newest = session.scalars(sa.select(PromotionRow).order_by(PromotionRow.id.desc()).limit(1)).one()
    return newest if newest.action == "canary" else None


def previous_champion(session: Session, version: int) -> int | None:
    """Return the champion that a version last replaced; rejected candidates and rollbacks do not count."""
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


def spent_levels(session: Session) -> float:
    """Return the sum of the levels of the gate's decisions since its last promotion; one without a test counts as 0."""
    by_gate = PromotionRow.decided_by == BY_GATE
    promoted = sa.select(sa.func.max(PromotionRow.id)).where(by_gate, PromotionRow.action.in_(("promote", "canary")))
    level = PromotionRow.evidence[("test", "level")].as_float()
    query = sa.select(sa.func.sum(level)).where(
        by_gate,
        PromotionRow.action.in_(("continue", "reject")),
        PromotionRow.id > sa.func.coalesce(promoted.scalar_subquery(), 0),
    )
    return float(session.scalar(query) or 0.0)


def served_before(session: Session, changes: int) -> int:
    """Return the version that live traffic got some changes of the champion ago, or the first if there were fewer.

    Versions that are neither the champion nor one that it descends from as a champion do not count: candidates that
    never served, and versions that were undone. 0 in a database without versions.
    """
    oldest = session.scalars(sa.select(PromotionRow.to_version).order_by(PromotionRow.id.desc()).limit(1)).first()
    if oldest is None:
        return 0
    replaced = (
        sa.select(PromotionRow.to_version, PromotionRow.from_version)
        .where(PromotionRow.action.in_(("publish", "promote")), PromotionRow.from_version != PromotionRow.to_version)
        .order_by(PromotionRow.id.desc())
    )
    for to, before in session.execute(replaced) if changes else ():
        if to == oldest and before is not None:
            oldest, changes = before, changes - 1
            if not changes:
                break
    return oldest


def record_manual_change(session: Session, before: int, to: int, action: str, reason: str, by: str) -> None:
    """Record a change of the champion by hand; it ends a canary in progress."""
    _end_canary(session, "void")
    session.add(new_entry(before, to, action, reason, by))


def record_gate_decision(session: Session, run_id: str, evidence: GateEvidence, champion: int, *, canary: bool) -> bool:
    """Record that the gate promoted a run's candidate, to champion or to canary, or did not.

    Returns:
        False if the run's decision is already recorded, or its candidate has been made the champion by hand.
    """
    run = session.get_one(RunRow, run_id)
    if run.gate != "due":
        return False
    if champion == evidence.candidate:
        run.gate = "void"
        return False
    gain = evidence.gain
    reason = f"mean gain {gain.mean:+.3f}, from {gain.low:+.3f} to {gain.high:+.3f}" if gain else ""
    if not evidence.promoted:
        run.gate, action = (
            ("continued", "continue") if evidence.continues and run.campaign_id else ("rejected", "reject")
        )
        before, to = evidence.candidate, champion
        reason = "; ".join(evidence.objections)
    elif canary:
        run.gate, before, to, action = "canary", evidence.candidate, champion, "canary"
    else:
        run.gate, before, to, action = "promoted", champion, evidence.candidate, "promote"
    session.add(new_entry(before, to, action, reason, BY_GATE, run_id=run_id, evidence=evidence))
    return True


def record_canary_outcome(
    session: Session, row_id: int, *, promote: bool, reason: str, evidence: LiveEvidence | None
) -> bool:
    """Record that a canary was promoted or rejected; return False if that canary is no longer in progress."""
    row = canary(session)
    if row is None or row.id != row_id or row.from_version is None:
        return False
    _end_canary(session, "promoted" if promote else "rejected")
    before, to = (row.to_version, row.from_version) if promote else (row.from_version, row.to_version)
    session.add(
        new_entry(
            before, to, "promote" if promote else "reject", reason, BY_CANARY, run_id=row.run_id, evidence=evidence
        )
    )
    return True


def record_rollback(session: Session, row_id: int, reason: str, evidence: LiveEvidence) -> bool:
    """Record that the watch rolled a promotion back; return False if the champion has changed since that promotion."""
    row = approval(session)
    if row.id != row_id or row.from_version is None:
        return False
    _end_canary(session, "void")
    session.add(
        new_entry(row.to_version, row.from_version, "rollback", reason, BY_WATCH, run_id=row.run_id, evidence=evidence)
    )
    return True


def entries(database: Database, limit: int) -> list[PromotionView]:
    """Return the newest rows, newest first."""
    with database.read() as session:
        return [
            _view(row) for row in session.scalars(sa.select(PromotionRow).order_by(PromotionRow.id.desc()).limit(limit))
        ]


def read_entry(database: Database, number: int) -> PromotionView:
    """Return one row.

    Raises:
        NotFound: no row has this number.
    """
    with database.read() as session:
        row = session.get(PromotionRow, number)
    if row is None:
        raise NotFound(f"promotion {number} does not exist", code="promotion_not_found")
    return _view(row)


def _end_canary(session: Session, gate: str) -> None:
    """Set the gate state of the run whose candidate is the canary."""
    session.execute(sa.update(RunRow).where(RunRow.gate == "canary").values(gate=gate))


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
