"""The outbox: one row for each event and target. A row is written before it is sent, and changed after.

All functions read or write the database: not for the event loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.notifications.events import Event
from server.store.tables import NotificationRow, NotificationTargetRow, PromotionRow
from upturn.wire import NotificationView

WAITING, SENT, GIVEN_UP = "waiting", "sent", "given_up"


def keep_targets(session: Session, names: Sequence[str], now: float) -> None:
    """Write since when each target is told of events; one that is not configured forgets it.

    So nothing is sent of the time before a target was configured, or while it was not.
    """
    session.execute(sa.delete(NotificationTargetRow).where(NotificationTargetRow.name.not_in(names)))
    newest = session.scalar(sa.select(sa.func.max(PromotionRow.id))) or 0
    for name in names:
        if session.get(NotificationTargetRow, name) is None:
            session.add(NotificationTargetRow(name=name, since=now, promotion_id=newest))


def add(session: Session, found: Mapping[str, Sequence[Event]], server: str, now: float) -> None:
    """Add events in the given order; an event that is there already stays unchanged.

    Args:
        session: the database.
        found: new events by target.
        server: name of this server.
        now: Unix time.
    """
    for target, events in found.items():
        for event in events:
            known = {
                row.target: row.id
                for row in session.scalars(sa.select(NotificationRow).where(NotificationRow.key == event.key))
            }
            if target in known:
                continue
            event_id = next(iter(known.values()), event.id)
            session.add(
                NotificationRow(
                    id=event_id,
                    key=event.key,
                    target=target,
                    type=event.type,
                    payload=event.payload(server, event_id),
                    state=WAITING,
                    attempts=0,
                    created_at=now,
                )
            )
            session.flush()  # In this order, and visible to the next query.


def oldest_waiting(session: Session, target: str) -> NotificationRow | None:
    """Return the event that a target gets next."""
    return session.scalar(
        sa.select(NotificationRow)
        .where(NotificationRow.target == target, NotificationRow.state == WAITING)
        .order_by(NotificationRow.number)
        .limit(1)
    )


def begin(session: Session, number: int, now: float) -> int:
    """Record that an attempt begins; return how many there have been, with this one.

    On PostgreSQL this fails if another server has taken the database, which then sends the event.
    """
    row = session.get_one(NotificationRow, number)
    row.attempts += 1
    row.tried_at = now
    return row.attempts


def finish(session: Session, number: int, state: str, error: str | None) -> None:
    """Record how an attempt ended."""
    row = session.get_one(NotificationRow, number)
    row.state, row.error = state, error


def count_waiting(session: Session) -> dict[str, int]:
    """Return the number of waiting events by target."""
    query = sa.select(NotificationRow.target, sa.func.count()).where(NotificationRow.state == WAITING)
    return {row.target: row[1] for row in session.execute(query.group_by(NotificationRow.target))}


def newest(session: Session, limit: int) -> list[NotificationView]:
    """Return the newest events, newest first."""
    rows = session.scalars(sa.select(NotificationRow).order_by(NotificationRow.number.desc()).limit(limit))
    return [
        NotificationView(
            id=row.id,
            type=row.type,
            target=row.target,
            state=row.state,  # type: ignore[arg-type]
            text=str(row.payload.get("text", "")),
            attempts=row.attempts,
            error=row.error,
            created_at=row.created_at,
            tried_at=row.tried_at,
        )
        for row in rows
    ]
