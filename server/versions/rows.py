"""Queries and updates of `policy_version` rows, and their view as a message. They block: not for the event loop."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.engines.protocol import Engine, Weights
from server.errors import Conflict, NotFound
from server.recording.recorder import REFUSED_VERSION
from server.store.database import id_at
from server.store.tables import BatchRow, NodeRow, PolicyVersionRow, TurnRow
from server.versions import ledger
from server.versions.routing import Pointers
from upturn.wire import PolicyView

LONGEST_TURN_S = 86_400.0
"""No answer takes longer."""


def ready(session: Session, version: int) -> PolicyVersionRow:
    """Return the row of a version whose weights are on disk.

    Raises:
        NotFound: the version does not exist, or its weights have been deleted.
    """
    row = session.get(PolicyVersionRow, version)
    if row is None or row.state != "ready":
        raise NotFound(f"version {version} does not exist, or its weights have been deleted", code="version_not_found")
    return row


def weights(session: Session, version: int) -> Weights:
    """Return the weights of a version.

    Raises:
        NotFound: the version does not exist, or its weights have been deleted.
    """
    return _weights(ready(session, version))


def champion_and_head(session: Session) -> tuple[Weights, Weights]:
    """Return the weights of the champion and of the head, as the ledger records them."""
    return (
        _weights(session.get_one(PolicyVersionRow, ledger.champion(session))),
        _weights(session.get_one(PolicyVersionRow, ledger.head(session))),
    )


def list_served(session: Session, only: int | None = None) -> Sequence[PolicyVersionRow]:
    """Return the versions that serve or have served, or only one of them, newest first."""
    query = sa.select(PolicyVersionRow).where(PolicyVersionRow.state.in_(("ready", "retired")))
    if only is not None:
        query = query.where(PolicyVersionRow.version == only)
    return session.scalars(query.order_by(PolicyVersionRow.version.desc())).all()


def created_at(session: Session) -> dict[int, float]:
    """Return when each version was published, in seconds since 1970."""
    return {row.version: row.created_at for row in session.scalars(sa.select(PolicyVersionRow))}


def find_by_manifest(session: Session, sha256: str) -> PolicyVersionRow | None:
    """Return the ready version that was published with a manifest of this SHA-256."""
    return session.scalar(
        sa.select(PolicyVersionRow).where(PolicyVersionRow.manifest_sha256 == sha256, PolicyVersionRow.state == "ready")
    )


def register_base(session: Session, name: str, base: Path) -> None:
    """Insert the base model as version 0 at the first start.

    Raises:
        Conflict: the database belongs to another base model.
    """
    row = session.get(PolicyVersionRow, 0)
    if row is None:
        session.add(
            PolicyVersionRow(version=0, name=name, state="ready", kind="base", path=str(base), created_at=time.time())
        )
        session.flush()
        session.add(ledger.new_entry(None, 0, "first", "the base model", ledger.BY_SWAP))
    elif row.path != str(base):
        raise Conflict(
            f"this database belongs to the base model {row.path}, not {base}: use another data directory for another "
            "model",
            code="other_base_model",
        )


def insert(session: Session, row: PolicyVersionRow) -> int:
    """Insert a row under the next version number, with its learner step's horizon; return the number."""
    row.version = (session.scalar(sa.select(sa.func.max(PolicyVersionRow.version))) or 0) + 1
    row.horizon = session.scalar(
        sa.select(BatchRow.horizon).where(BatchRow.run_id == row.run_id, BatchRow.step == row.step)
    )
    session.add(row)
    return row.version


def set_ready(session: Session, version: int, *, check_mean: float, check_max: float, swap_s: float) -> None:
    """Mark a version as serving, with the result of its check (nats) and the seconds its swap took."""
    session.execute(
        sa.update(PolicyVersionRow)
        .where(PolicyVersionRow.version == version)
        .values(state="ready", check_mean=check_mean, check_max=check_max, swap_s=swap_s)
    )


def set_failed(session: Session, version: int, reason: str) -> None:
    """Mark a version as refused, and the turns that it sampled as untrainable; its number stays used."""
    row = session.get_one(PolicyVersionRow, version)
    row.state, row.reason = "failed", reason
    _never_train_on(session, row)


def fail_interrupted(session: Session) -> None:
    """Mark versions as refused that were loading when the server stopped."""
    for version in session.scalars(
        sa.select(PolicyVersionRow.version).where(PolicyVersionRow.state == "loading")
    ).all():
        set_failed(session, version, "the server stopped while loading it")


def _never_train_on(session: Session, version: PolicyVersionRow) -> None:
    """Mark the recorded turns as untrainable that a refused version sampled, wholly or in part.

    An engine with full weights samples with a version while it is checked. The recorder marks turns that end later.
    """
    sampled = (
        sa.select(NodeRow.turn_id)
        .join(TurnRow, TurnRow.id == NodeRow.turn_id)
        .where(
            TurnRow.id >= id_at("turn", version.created_at - LONGEST_TURN_S),  # spares all older turns
            NodeRow.policy_version == version.version,
        )
    )
    session.execute(
        sa.update(TurnRow)
        .where(TurnRow.id.in_(sampled), TurnRow.trainable)
        .values(trainable=False, untrainable_reason=REFUSED_VERSION)
    )


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
