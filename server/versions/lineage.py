"""Lineage: the versions and episodes that a version was trained from. Reads the database: not for the event loop."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.errors import NotFound
from server.store.database import Database
from server.store.tables import BatchRow, PolicyVersionRow, RunEpisodeRow
from upturn.wire import Ancestor, LineageEpisode, PolicyLineage


def read_lineage(database: Database, version: int, limit: int) -> PolicyLineage:
    """Return a version's ancestors back to the base, and the episodes of the learner steps since its parent.

    Args:
        database: read in one session.
        version: a version that was ever published.
        limit: episodes to return; the counts cover all of them.

    Raises:
        NotFound: the version does not exist.
    """
    with database.read() as session:
        row = session.get(PolicyVersionRow, version)
        if row is None:
            raise NotFound(f"version {version} does not exist", code="version_not_found")
        parents = _ancestors(session, row)
        steps = _steps(row, parents[0] if parents else None)
        trained = RunEpisodeRow.batch_id.in_(sa.select(BatchRow.id).where(*steps))
        episodes = session.execute(
            sa.select(RunEpisodeRow, BatchRow.step)
            .join(BatchRow, BatchRow.id == RunEpisodeRow.batch_id)
            .where(*steps)
            .order_by(BatchRow.step, RunEpisodeRow.episode_id)
            .limit(limit)
        ).all()
        count = session.scalar(sa.select(sa.func.count()).select_from(RunEpisodeRow).where(trained))
        erased = session.scalar(sa.select(sa.func.sum(BatchRow.erased_episodes)).where(*steps))
    return PolicyLineage(
        version=version,
        run_id=row.run_id,
        trained_episodes=count or 0,
        erased_episodes=erased or 0,
        parents=[Ancestor(version=p.version, run_id=p.run_id, step=p.step, kept=p.state == "ready") for p in parents],
        episodes=[
            LineageEpisode(episode_id=e.episode_id, step=step, advantage=e.advantage, weight=e.weight)
            for e, step in episodes
        ],
    )


def _ancestors(session: Session, row: PolicyVersionRow) -> list[PolicyVersionRow]:
    parents = []
    while row.parent is not None:
        row = session.get_one(PolicyVersionRow, row.parent)
        parents.append(row)
    return parents


def _steps(row: PolicyVersionRow, parent: PolicyVersionRow | None) -> list[sa.ColumnElement[bool]]:
    """Return conditions for the batches that trained a version: its run's batches after its parent in the same run."""
    since = parent.step if parent is not None and parent.run_id == row.run_id and parent.step is not None else -1
    return [BatchRow.run_id == row.run_id, BatchRow.step.between(since + 1, -1 if row.step is None else row.step)]
