"""Reads an open episode from the database by its id.

Blocks on the database, so do not call it from the event loop.
"""

from __future__ import annotations

import sqlalchemy as sa

from server.errors import NotFound
from server.recording.episode import Episode, Tail
from server.recording.tokens import unpack_ids
from server.store.database import Database
from server.store.tables import EpisodeRow, NodeRow, StepRow, TurnRow


def restore_episode(database: Database, episode_id: str) -> Episode:
    """Return an episode as it would be in memory; it may have ended.

    Raises:
        NotFound: there is no such episode.
    """
    with database.read() as session:
        row = session.get(EpisodeRow, episode_id)
        if row is None:
            raise NotFound(f"no episode {episode_id!r}", code="episode_not_found")
        turns = session.execute(sa.select(TurnRow.index, TurnRow.choice).where(TurnRow.episode_id == episode_id)).all()
        steps = session.scalar(sa.select(sa.func.count()).select_from(StepRow).where(StepRow.episode_id == episode_id))
        nodes = session.scalars(sa.select(NodeRow).where(NodeRow.episode_id == episode_id).order_by(NodeRow.id)).all()
    episode = Episode(
        id=row.id,
        environment=row.environment,
        task=row.task,
        seed=row.seed,
        horizon=row.horizon,
        policy_version=row.policy_version,
        purpose=row.purpose,
        trainable=row.trainable,
        turns=sum(choice == 0 for _, choice in turns),
        next_index=max((index for index, _ in turns), default=-1) + 1,
        steps=steps or 0,
        ended=None if row.status == "open" else row.status,
    )
    ends: dict[int, Tail] = {}
    for node in nodes:
        parent = ends.get(node.parent_id) if node.parent_id is not None else None
        ends[node.id] = Tail(node.id, parent, unpack_ids(node.token_ids), node.turn_id)
        if node.chain_hash is not None:
            episode.tails[node.chain_hash] = ends[node.id]
            episode.newest = node.chain_hash
    return episode
