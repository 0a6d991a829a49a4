"""Derives events from the ledger of champions, from ended runs, and from the state of the disk. It only reads."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.notifications.events import Event
from server.notifications.settings import EventType
from server.readiness import Part
from server.store.tables import BatchRow, NotificationRow, NotificationTargetRow, PromotionRow, RunRow

ACTIONS: dict[str, EventType] = {
    "promote": "policy.promoted",
    "canary": "policy.canary",
    "continue": "policy.continued",
    "reject": "policy.rejected",
    "rollback": "policy.rolled_back",
}
"""Rows of the ledger that are events, by their action."""
FREE_AGAIN = 1.25
"""The disk has space again at this multiple of `min_free_bytes`: close to the limit it would be full every minute."""
MIB = 2**20


def from_ledger(session: Session, target: NotificationTargetRow, policy: str) -> Iterator[Event]:
    """Yield the decisions that a target has not been told of; after one, what the auditor found in it.

    Args:
        session: the database.
        target: the target, with the row of the ledger after which it is told.
        policy: name of the policy.
    """
    key = sa.literal("promotion:").concat(sa.cast(PromotionRow.id, sa.String(20)))
    query = sa.select(PromotionRow).where(
        PromotionRow.id > target.promotion_id, PromotionRow.action.in_(ACTIONS), _untold(key, target.name)
    )
    for row in session.scalars(query.order_by(PromotionRow.id)):
        # Of a candidate, `from_version` is the candidate; of a change, the version before.
        of_candidate = row.action in ("canary", "continue", "reject", "rollback")
        version = row.from_version if of_candidate else row.to_version
        evidence = row.evidence or {}
        objections = [text for text in evidence.get("objections") or () if isinstance(text, str)]
        yield Event(
            type=ACTIONS[row.action],
            key=f"promotion:{row.id}",
            at=row.created_at,
            text=_sentence(row, policy),
            run=row.run_id,
            version=version,
            champion=row.to_version,
            decided_by=row.decided_by,
            reason=row.reason,
            objections=objections if row.action in ("continue", "reject") else (),
            figures=_figures(evidence),
            path=f"/v1/promotions/{row.id}",
        )
        if findings := [finding for finding in evidence.get("audit") or () if finding["flagged"]]:
            yield _flagged(row, findings, policy)


def _flagged(row: PromotionRow, findings: Sequence[Mapping[str, Any]], policy: str) -> Event:
    """Return what the auditor objects to in a decision: the figures are of its strongest finding."""
    reasons = [str(finding["sentence"]) for finding in findings]
    names = {"champion": "before", "candidate": "after", "rise": "rise", "tolerated": "tolerated", "p_value": "p_value"}
    return Event(
        type="policy.flagged",
        key=f"audit:{row.id}",
        at=row.created_at,
        text=f"{policy}@{row.from_version} may be hacking its reward: {'; '.join(reasons)}",
        run=row.run_id,
        version=row.from_version,
        champion=row.to_version,
        decided_by=row.decided_by,
        reason=row.reason,
        objections=reasons,
        figures=_finite({name: findings[0].get(field) for field, name in names.items()}),
        path=f"/v1/promotions/{row.id}",
    )


def from_runs(session: Session, target: NotificationTargetRow) -> Iterator[Event]:
    """Yield the runs that failed, or ended without training anything, and that a target has not been told of."""
    trained = (BatchRow.run_id == RunRow.id, BatchRow.published)
    count = sa.select(sa.func.count()).where(*trained).scalar_subquery()
    query = sa.select(RunRow, count).where(
        RunRow.ended_at >= target.since,
        sa.or_(
            RunRow.state == "failed", sa.and_(RunRow.state == "done", ~sa.select(BatchRow.id).where(*trained).exists())
        ),
        _untold(sa.literal("run:").concat(RunRow.id), target.name),
    )
    for row, steps in session.execute(query.order_by(RunRow.ended_at)):
        reason = row.reason or "no reason given"
        if row.state == "failed":
            kind, said = "run.failed", f"run {row.id} failed after {steps} trained steps: {reason}"
        else:
            kind, said = "run.empty", f"run {row.id} ended without training anything: {reason}"
        yield Event(
            type=kind,
            key=f"run:{row.id}",
            at=row.ended_at,
            text=said,
            run=row.id,
            version=row.last_version,
            reason=row.reason,
            figures={"steps": row.step, "trained_steps": steps},
            path=f"/v1/runs/{row.id}",
        )


def from_disk(session: Session, target: str, part: Part, now: float) -> Event | None:
    """Return the change of the disk's state since a target was last told of it, if there is one.

    Args:
        session: the database.
        target: name of the target.
        part: the disk's state; one without figures is unknown, and no change.
        now: Unix time.
    """
    free, limit = part.figures.get("free_bytes"), part.figures.get("min_free_bytes")
    if free is None or limit is None:
        return None
    told = session.scalar(
        sa.select(NotificationRow.type)
        .where(NotificationRow.target == target, NotificationRow.type.in_(("disk.full", "disk.free")))
        .order_by(NotificationRow.number.desc())
        .limit(1)
    )
    sizes = f"{free / MIB:,.0f} MiB are free, min_free_bytes is {limit / MIB:,.0f} MiB"
    if told != "disk.full" and not part.ok:
        kind, said = "disk.full", f"the disk is nearly full and the server is not ready: {sizes}; free space"
    elif told == "disk.full" and free >= FREE_AGAIN * limit:
        kind, said = "disk.free", f"the disk has space again: {sizes}"
    else:
        return None
    figures = {"free_bytes": free, "min_free_bytes": limit}
    return Event(kind, f"{kind}:{now:.3f}", now, said, figures=figures, path="/readyz")


def _untold(key: sa.ColumnElement[str], target: str) -> sa.ColumnElement[bool]:
    told = sa.select(NotificationRow.number).where(NotificationRow.key == key, NotificationRow.target == target)
    return ~told.exists()


def _sentence(row: PromotionRow, policy: str) -> str:
    before, after = f"{policy}@{row.from_version}", f"{policy}@{row.to_version}"
    by = "" if row.decided_by is None else f" by {row.decided_by}"
    said = {
        "promote": f"{after} was promoted to champion{by}",
        "canary": f"{before} gets a share of live traffic as canary, {after} stays the champion",
        "continue": f"{before} was not promoted{by}, {after} stays the champion; its campaign continues from it",
        "reject": f"{before} was rejected{by}, {after} stays the champion",
        "rollback": f"{before} was rolled back{by}, {after} is the champion again",
    }[row.action]
    return f"{said}: {row.reason}" if row.reason else said


def _figures(evidence: dict[str, Any]) -> dict[str, float]:
    """Return the figures of a decision: the gain with its interval, or the live rewards of both versions."""
    gain = evidence.get("gain") or {}
    before, now = evidence.get("before") or {}, evidence.get("now") or {}
    found = {
        "gain": gain.get("mean"),
        "gain_low": gain.get("low"),
        "gain_high": gain.get("high"),
        "reward_before": before.get("mean_reward"),
        "reward_now": now.get("mean_reward"),
        "episodes_before": before.get("episodes"),
        "episodes_now": now.get("episodes"),
        "e_value": evidence.get("e_value"),
    }
    return _finite(found)


def _finite(found: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in found.items() if isinstance(value, int | float) and math.isfinite(value)}
