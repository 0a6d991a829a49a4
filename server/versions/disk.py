"""Which versions' weights stay on disk, and how the others go (after step 12).

A version is `retired` in its row before its directory goes, so a server that dies in between finds what is left at its
next start.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence, Set
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.store.tables import EvaluationRow, PolicyVersionRow, RunRow
from server.versions import ledger
from server.versions.settings import VersionSettings


def surplus(session: Session, rule: VersionSettings, in_use: Set[int]) -> list[int]:
    """Return the versions whose weights nothing needs any more; `in_use` are those that somebody may ask next."""
    ready = {
        row.version: row
        for row in session.scalars(sa.select(PolicyVersionRow).where(PolicyVersionRow.state == "ready"))
    }
    newest = sorted(ready, reverse=True)[: rule.newest]
    pinned = {version for version, row in ready.items() if row.pinned or row.kind == "base"}
    best = _best(session, ready.keys()) if rule.best else set()
    kept = in_use | {*newest} | pinned | best | _needed_by_runs(session) | _champions(session, rule.ancestors)
    return sorted(ready.keys() - kept)


def retire(session: Session, versions: Sequence[int]) -> None:
    """Say that the weights of some versions are gone."""
    session.execute(sa.update(PolicyVersionRow).where(PolicyVersionRow.version.in_(versions)).values(state="retired"))


def left_behind(session: Session, root: Path) -> list[Path]:
    """Return the directories under `root` of versions that are gone; few of them exist."""
    gone = sa.select(PolicyVersionRow.path).where(PolicyVersionRow.state == "retired")
    there = sa.select(PolicyVersionRow.path).where(PolicyVersionRow.state.in_(("ready", "loading")))
    paths = map(Path, session.scalars(gone.where(PolicyVersionRow.path.not_in(there))))
    return [path for path in paths if path.is_relative_to(root) and path.exists()]


def delete(directories: Iterable[Path]) -> None:
    """Delete weights; what cannot be deleted now goes at a later start."""
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


def _champions(session: Session, depth: int) -> set[int]:
    """Return the champion, what a rollback would go to, and what it was trained from, `depth` versions back."""
    standing = ledger.standing(session)
    champion = ledger.champion(session)
    before = {
        standing.from_version,
        ledger.champion_before(session, champion),
        ledger.champion_before(session, standing.to_version),
    }
    kept = {champion, standing.to_version} | {version for version in before if version is not None}
    version: int | None = standing.to_version
    for _ in range(depth):
        version = session.scalar(sa.select(PolicyVersionRow.parent).where(PolicyVersionRow.version == version))
        if version is None:
            break
        kept.add(version)
    return kept


def _needed_by_runs(session: Session) -> set[int]:
    """Return what runs that go on began and stand with, and what the gate or a canary has to decide on."""
    open_ = sa.or_(RunRow.ended_at.is_(None), RunRow.gate.in_(("due", "canary")))
    rows = session.execute(sa.select(RunRow.first_version, RunRow.last_version).where(open_))
    return {version for row in rows for version in row if version is not None}


def _best(session: Session, ready: Iterable[int]) -> set[int]:
    """Return the version with the highest success in an evaluation, for each environment; of equals the newest."""
    rows = session.scalars(
        sa.select(EvaluationRow)
        .where(EvaluationRow.success_rate.is_not(None), EvaluationRow.policy_version.in_(ready))
        .order_by(EvaluationRow.success_rate, EvaluationRow.policy_version)
    )
    return set({row.environment: row.policy_version for row in rows}.values())
