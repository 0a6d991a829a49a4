"""Which versions' weights stay on disk, and the deletion of the others (after step 12).

A version's row says `retired` before its directory is deleted, so after a crash in between the next start deletes the
directory.
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


def unneeded(session: Session, settings: VersionSettings, in_use: Set[int]) -> list[int]:
    """Return the versions whose weights can be deleted; `in_use` are the versions that the next request may need."""
    ready = {
        row.version: row
        for row in session.scalars(sa.select(PolicyVersionRow).where(PolicyVersionRow.state == "ready"))
    }
    newest = sorted(ready, reverse=True)[: settings.newest]
    pinned = {version for version, row in ready.items() if row.pinned or row.kind == "base"}
    best = _best(session, ready.keys()) if settings.best else set()
    kept = in_use | {*newest} | pinned | best | _needed_by_runs(session) | _champions(session, settings.ancestors)
    return sorted(ready.keys() - kept)


def retire(session: Session, versions: Sequence[int]) -> None:
    """Mark versions whose weights are about to be deleted."""
    session.execute(sa.update(PolicyVersionRow).where(PolicyVersionRow.version.in_(versions)).values(state="retired"))


def leftover(session: Session, root: Path) -> list[Path]:
    """Return the directories under `root` that a crash left behind: of retired versions and of no other."""
    retired = sa.select(PolicyVersionRow.path).where(PolicyVersionRow.state == "retired")
    in_use = sa.select(PolicyVersionRow.path).where(PolicyVersionRow.state.in_(("ready", "loading")))
    paths = map(Path, session.scalars(retired.where(PolicyVersionRow.path.not_in(in_use))))
    return [path for path in paths if path.is_relative_to(root) and path.exists()]


def delete(directories: Iterable[Path]) -> None:
    """Delete directories of weights; a later start deletes what cannot be deleted now."""
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


def _champions(session: Session, depth: int) -> set[int]:
    """Return the champion, the targets of a rollback, and `depth` ancestors of the approved champion."""
    approval = ledger.approval(session)
    champion = ledger.champion(session)
    previous = {
        approval.from_version,
        ledger.previous_champion(session, champion),
        ledger.previous_champion(session, approval.to_version),
    }
    kept = {champion, approval.to_version} | {version for version in previous if version is not None}
    version: int | None = approval.to_version
    for _ in range(depth):
        version = session.scalar(sa.select(PolicyVersionRow.parent).where(PolicyVersionRow.version == version))
        if version is None:
            break
        kept.add(version)
    return kept


def _needed_by_runs(session: Session) -> set[int]:
    """Return the first and last versions of unfinished runs, and of runs whose gate or canary is undecided."""
    undecided = sa.or_(RunRow.ended_at.is_(None), RunRow.gate.in_(("due", "canary")))
    versions = session.execute(sa.select(RunRow.first_version, RunRow.last_version).where(undecided))
    return {version for pair in versions for version in pair if version is not None}


def _best(session: Session, ready: Iterable[int]) -> set[int]:
    """Return, for each environment, the version with the highest success rate over all evaluations; the newest wins."""
    rate = sa.func.sum(EvaluationRow.success_rate * EvaluationRow.episodes) / sa.func.sum(EvaluationRow.episodes)
    rows = session.execute(
        sa.select(EvaluationRow.environment, EvaluationRow.policy_version)
        .where(
            EvaluationRow.success_rate.is_not(None),
            EvaluationRow.episodes > 0,
            EvaluationRow.policy_version.in_(ready),
        )
        .group_by(EvaluationRow.environment, EvaluationRow.policy_version)
        .order_by(rate, EvaluationRow.policy_version)
    )
    return set({row.environment: row.policy_version for row in rows}.values())
