"""How long rewards take, and the age at which the reward of a live episode is read.

A good reward may take longer than a bad one, or less long. So the age covers both: it is twice the delay within which
95 % of the rewards below the mean, and 95 % of the others, were known. It is chosen before a comparison begins, from
episodes of the version that served until then, so it depends on nothing that is compared.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.rewards.live import Window, matured
from server.rewards.rules import read_rules
from server.rewards.totals import rewards_of
from server.store.chunks import chunks
from server.store.tables import EpisodeRow, RewardRow

HOUR_S = 3600.0
SHORTEST_S, LONGEST_S = 300.0, 8 * HOUR_S
"""Bounds of the age. Delays are observed over the longest."""
UNKNOWN_S = 4 * HOUR_S
"""The age if the delays of good or of bad rewards are unknown."""
EPISODES = 400
"""Newest episodes whose delays are observed."""
LEAST = 5
"""Least rewards on either side of the mean."""


def maturity(observed: Sequence[tuple[float, float]]) -> float:
    """Return the age in seconds at which to read rewards, from (delay in seconds, reward) of earlier episodes."""
    delays, rewards = np.array(observed, dtype=np.float64).reshape(-1, 2).T
    below = rewards < rewards.mean() if len(rewards) else np.zeros(0, dtype=np.bool_)
    sides = delays[below], delays[~below]
    if min(map(len, sides)) < LEAST:
        return UNKNOWN_S
    known = max(float(np.quantile(side, 0.95, method="higher")) for side in sides)
    return min(LONGEST_S, max(SHORTEST_S, 2 * known))


def observed_delays(session: Session, version: int, before: float) -> list[tuple[float, float]]:
    """Return (seconds from opening to the last reward that counts, reward) of a version's newest live episodes.

    All are old enough at `before`, in Unix seconds, for the longest delay.
    """
    counted = read_rules(session).counted()
    window = Window(0.0, before - LONGEST_S, LONGEST_S, newest_first=True)
    rows = session.execute(matured(version, window, counted).limit(EPISODES)).all()
    ids = [row.id for row in rows]
    rewards = rewards_of(session, ids, until_age_s=LONGEST_S)
    last = (
        sa.select(RewardRow.episode_id, sa.func.max(RewardRow.created_at))
        .join(EpisodeRow, EpisodeRow.id == RewardRow.episode_id)
        .where(counted, RewardRow.created_at <= EpisodeRow.opened_at + LONGEST_S)
        .group_by(RewardRow.episode_id)
    )
    given = {
        episode_id: at
        for some in chunks(ids)
        for episode_id, at in session.execute(last.where(RewardRow.episode_id.in_(some)))
    }
    observed = []
    for row in rows:
        known = given.get(row.id, row.opened_at)
        if row.environment is not None and row.closed_at is not None:
            known = max(known, row.closed_at)
        if (reward := rewards[row.id]) is not None:
            observed.append((known - row.opened_at, reward))
    return observed
