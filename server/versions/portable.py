"""Which weights belong to a database, and where they lie: for backup and restore. Blocks on the database."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.store.tables import PolicyVersionRow
from server.versions import rows


def needed_versions(session: Session) -> set[int]:
    """Return champion and head, without whose weights a server cannot start."""
    return (
        {weights.version for weights in rows.champion_and_head(session)} if session.get(PolicyVersionRow, 0) else set()
    )


def kept_weights(session: Session) -> dict[int, Path]:
    """Return the directories of the versions that can serve, except the base, by version."""
    query = sa.select(PolicyVersionRow.version, PolicyVersionRow.path).where(
        PolicyVersionRow.state == "ready", PolicyVersionRow.kind != "base"
    )
    return {version: Path(path) for version, path in session.execute(query)}


def retire(session: Session, versions: set[int]) -> None:
    """Record that versions no longer have weights."""
    session.execute(sa.update(PolicyVersionRow).where(PolicyVersionRow.version.in_(versions)).values(state="retired"))


def base_path(session: Session) -> str | None:
    """Return the directory of the base model; None in an empty database."""
    row = session.get(PolicyVersionRow, 0)
    return None if row is None else row.path


def move(session: Session, old: Path, new: Path, base: Path | None) -> None:
    """Rewrite the paths of a database whose data directory has moved.

    Args:
        session: a session of the moved database.
        old: the data directory that the rows name.
        new: where it is.
        base: the base model's directory, if that has moved too.
    """
    for row in session.scalars(sa.select(PolicyVersionRow)):
        if row.kind == "base" and base is not None:
            row.path = str(base)
        elif Path(row.path).is_relative_to(old):
            row.path = str(new / Path(row.path).relative_to(old))
