"""Each episode's reward: its environment's rewards plus external rewards, combined by the rules of their sources."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.recording.rewards import read_rules
from server.store.tables import RewardRow, StepRow


def rewards_of(session: Session, episode_ids: Sequence[str]) -> dict[str, float | None]:
    """Return each episode's current reward, by episode id; None without any reward."""
    steps: dict[str, list[float]] = defaultdict(list)
    late: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for episode_id, reward in session.execute(
        sa.select(StepRow.episode_id, StepRow.reward).where(StepRow.episode_id.in_(episode_ids))
    ):
        steps[episode_id].append(reward)
    for episode_id, source, value in session.execute(
        sa.select(RewardRow.episode_id, RewardRow.source, RewardRow.value).where(RewardRow.episode_id.in_(episode_ids))
    ):
        late[episode_id].append((source, value))
    rules = read_rules(session)
    return {i: rules.total(steps[i], late[i]) for i in episode_ids}
