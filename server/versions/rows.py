"""The rows of `policy_version`: read as weights and as messages. Reads the database: not for the event loop."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.engines.protocol import Engine, Weights
from server.errors import Conflict, NotFound
from server.store.tables import BatchRow, PolicyVersionRow
from server.versions import ledger
from server.versions.routing import Pointers
from upturn.wire import PolicyView


def weights_of(session: Session, version: int) -> Weights:
    """Return the weights of a version.

    Raises:
        NotFound: no such version, or its weights are gone.
    """
    return _weights(ready_version(session, version))


def ready_version(session: Session, version: int) -> PolicyVersionRow:
    """Return the row of a version whose weights are there.

    Raises:
        NotFound: no such version, or its weights are gone.
    """
    row = session.get(PolicyVersionRow, version)
    if row is None or row.state != "ready":
        raise NotFound(f"no version {version}, or its weights are gone", code="version_not_found")
    return row


def read_pointers(session: Session) -> tuple[Weights, Weights]:
    """Return champion and head, as the ledger has them."""
    return (
        _weights(session.get_one(PolicyVersionRow, ledger.champion(session))),
        _weights(session.get_one(PolicyVersionRow, ledger.head(session))),
    )


def listed(session: Session, only: int | None = None) -> Sequence[PolicyVersionRow]:
    """Return the versions that serve or have served, newest first."""
    query = sa.select(PolicyVersionRow).where(PolicyVersionRow.state.in_(("ready", "retired")))
    if only is not None:
        query = query.where(PolicyVersionRow.version == only)
    return session.scalars(query.order_by(PolicyVersionRow.version.desc())).all()


def published(session: Session, sha256: str) -> PolicyVersionRow | None:
    """Return the version that a manifest was published as."""
    return session.scalar(
        sa.select(PolicyVersionRow).where(PolicyVersionRow.manifest_sha256 == sha256, PolicyVersionRow.state == "ready")
    )


def register_base(session: Session, name: str, base: Path) -> None:
    """Make the base model version 0, at the first start.

    Raises:
        Conflict: the database began with another model.
    """
    row = session.get(PolicyVersionRow, 0)
    if row is None:
        session.add(
            PolicyVersionRow(version=0, name=name, state="ready", kind="base", path=str(base), created_at=time.time())
        )
        session.flush()
        session.add(ledger.entry(None, 0, "first", "the base model", ledger.BY_SWAP))
    elif row.path != str(base):
        raise Conflict(
            f"this database began with the model {row.path}, not {base}: use another data directory for another model",
            code="other_base_model",
        )


def number(session: Session, row: PolicyVersionRow) -> int:
    """Give a row the next version number and its step's horizon, and store it."""
    row.version = (session.scalar(sa.select(sa.func.max(PolicyVersionRow.version))) or 0) + 1
    row.horizon = session.scalar(
        sa.select(BatchRow.horizon).where(BatchRow.run_id == row.run_id, BatchRow.step == row.step)
    )
    session.add(row)
    return row.version


def view(row: PolicyVersionRow, pointers: Pointers, engine: Engine) -> PolicyView:
    """Return a version as a message."""
    return PolicyView(
        name=row.name,
        version=row.version,
        id=f"{row.name}@{row.version}",
        kind=row.kind,  # type: ignore[arg-type]
        path=row.path,
        manifest_sha256=row.manifest_sha256,
        parent=row.parent,
        run_id=row.run_id,
        step=row.step,
        horizon=row.horizon,
        champion=row.version == pointers.champion,
        canary=row.version == pointers.canary,
        head=row.version == pointers.head,
        loaded=row.version in engine.versions,
        kept=row.state == "ready",
        pinned=row.pinned,
        swap_s=row.swap_s,
        check_mean=row.check_mean,
        check_max=row.check_max,
        created_at=row.created_at,
    )


def _weights(row: PolicyVersionRow) -> Weights:
    return Weights(row.version, row.kind, Path(row.path))  # type: ignore[arg-type]
