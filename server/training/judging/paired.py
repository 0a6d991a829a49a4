"""The episodes behind a decision of the gate, paired by task: read from the record, for people who want to see them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.store.database import Database
from server.store.tables import EpisodeRow, EvaluationRow
from server.versions.ledger import read_entry
from upturn.wire import EvaluatedEpisode, Figures, GateEvidence, PairedTask, PairedTasks


def read_pairs(database: Database, number: int) -> PairedTasks:
    """Return the episodes of a row of the ledger by task; nothing for a row without evidence of evaluations.

    Raises:
        NotFound: there is no such row.
    """
    evidence = read_entry(database, number).evidence
    if not isinstance(evidence, GateEvidence):
        return PairedTasks(data=[])
    found: list[PairedTask] = []
    with database.read() as session:
        for role, environments in (("decides", evidence.environments), ("guards", evidence.guards)):
            for environment, result in environments.items():
                champion = _by_task(session, result.champion)
                candidate = _by_task(session, result.candidate)
                found += [
                    PairedTask(
                        environment=environment,
                        task=task,
                        guards=role == "guards",
                        champion=champion.get(task, []),
                        candidate=candidate.get(task, []),
                    )
                    for task in sorted({*champion, *candidate})
                ]
    return PairedTasks(data=found)


def _by_task(session: Session, figures: Figures) -> Mapping[str, list[EvaluatedEpisode]]:
    """Return the episodes of evaluations; those that have been erased are missing."""
    ids = figures.evaluation_ids or [figures.evaluation_id]
    plays = sa.select(EvaluationRow.play_id).where(EvaluationRow.id.in_(ids))
    query = (
        sa.select(EpisodeRow.id, EpisodeRow.task, EpisodeRow.success)
        .where(EpisodeRow.play_id.in_(plays))
        .order_by(EpisodeRow.id)
    )
    by_task: dict[str, list[EvaluatedEpisode]] = defaultdict(list)
    for episode_id, task, success in session.execute(query):
        by_task[task or ""].append(EvaluatedEpisode(episode_id=episode_id, success=success))
    return by_task
