"""Total reward of each episode: its environment's rewards plus external rewards, by the rules of their sources."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.rewards.rules import read_rules
from server.store.chunks import chunks
from server.store.tables import EpisodeRow, RewardRow, StepRow


def rewards_of(
    session: Session, episode_ids: Sequence[str], *, until_age_s: float | None = None
) -> dict[str, float | None]:
    """Return the reward of each episode; None for an episode without a reward that counts.

    Args:
        session: a database session.
        episode_ids: the episodes.
        until_age_s: external rewards count that an episode had at this age; None: all that it has now.
    """
    steps: dict[str, list[float]] = defaultdict(list)
    external: dict[str, list[tuple[str, float]]] = defaultdict(list)
    earned = sa.select(StepRow.episode_id, StepRow.reward)
    given = sa.select(RewardRow.episode_id, RewardRow.source, RewardRow.value)
    if until_age_s is not None:
        given = given.join(EpisodeRow, EpisodeRow.id == RewardRow.episode_id).where(
            RewardRow.created_at <= EpisodeRow.opened_at + until_age_s
        )
    for ids in chunks(episode_ids):
        for episode_id, reward in session.execute(earned.where(StepRow.episode_id.in_(ids))):
            steps[episode_id].append(reward)
        for episode_id, source, value in session.execute(given.where(RewardRow.episode_id.in_(ids))):
            external[episode_id].append((source, value))
    rules = read_rules(session)
    return {i: rules.total(steps[i], external[i]) for i in episode_ids}
