"""What each episode earned: its environment's rewards, and those that came from outside."""

from __future__ import annotations

from collections import defaultdict

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.recording.transcript import total_reward
from server.store.tables import RewardRow, StepRow


def rewards_of(session: Session, episode_ids: list[str]) -> dict[str, float | None]:
    """Return each episode's reward; None where nobody has rewarded it."""
    steps: dict[str, list[float]] = defaultdict(list)
    late: dict[str, list[float]] = defaultdict(list)
    for episode_id, reward in session.execute(
            sa.select(StepRow.episode_id, StepRow.reward).where(StepRow.episode_id.in_(episode_ids))):
        steps[episode_id].append(reward)
    for episode_id, value in session.execute(
            sa.select(RewardRow.episode_id, RewardRow.value).where(RewardRow.episode_id.in_(episode_ids))):
        late[episode_id].append(value)
    return {i: total_reward(steps[i], late[i]) for i in episode_ids}
