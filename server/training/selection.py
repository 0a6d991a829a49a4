"""Which episodes a batch takes: ended well, rewarded, trainable, fresh, and in complete groups (step 6)."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.orm import Session

from clients.wire import RunConfig, Sample
from server.recording.transcript import mean, nodes_of, total_reward
from server.store.tables import EpisodeRow, NodeRow, RewardRow, RunEpisodeRow, StepRow, TurnRow
from server.training.branches import samples_of

LIVE_EPISODES = 64  # Most live episodes in one batch.
MIN_GROUP = 2  # A group's advantage needs a comparison.


@dataclass(slots=True)
class Selection:
    """The episodes of a batch and what was left out, with why."""

    episode_ids: list[str] = field(default_factory=list)
    stats: dict[str, float | None] = field(default_factory=dict)


def select(session: Session, config: RunConfig, *, run_id: str, play_id: str | None, head: int) -> Selection:
    """Choose the episodes of one batch: of a play, or recorded live ones that this run has not had."""
    query = sa.select(EpisodeRow).where(EpisodeRow.trainable, EpisodeRow.status != "open",
                                        EpisodeRow.purpose != "evaluation",
                                        # An environment that was left before its end has given no verdict.
                                        sa.or_(EpisodeRow.status != "closed", EpisodeRow.environment.is_(None)))
    if play_id is not None:
        query = query.where(EpisodeRow.play_id == play_id)
    else:
        had = sa.select(RunEpisodeRow.episode_id).where(RunEpisodeRow.run_id == run_id)
        query = query.where(EpisodeRow.play_id.is_(None), EpisodeRow.id.not_in(had)).order_by(
            EpisodeRow.id.desc()).limit(LIVE_EPISODES)
    episodes = session.scalars(query.order_by(EpisodeRow.id)).all()
    valid = [e for e in episodes if e.status != "error"]
    rewards = rewards_of(session, [e.id for e in valid])
    turns = _turns_of(session, [e.id for e in valid])
    usable = [e for e in valid if rewards[e.id] is not None and turns[e.id]
              and (config.algorithm == "sft" or _fresh(turns[e.id], head - config.max_staleness))]
    chosen: list[str] = []
    counts = {"groups": 0, "groups_without_variance": 0, "groups_incomplete": 0}
    if config.algorithm == "sft":
        chosen = [e.id for e in usable if e.success or (e.success is None and (rewards[e.id] or 0) > 0)]
        counts["groups"] = len(chosen)
    else:
        groups: dict[str, list[str]] = defaultdict(list)
        for episode in usable:
            groups[episode.group_key or episode.id].append(episode.id)
        for members in groups.values():
            if len(members) < MIN_GROUP:
                counts["groups_incomplete"] += 1
            elif len({rewards[m] for m in members}) == 1:
                counts["groups_without_variance"] += 1
            else:
                counts["groups"] += 1
                chosen += members
    known = [r for e in valid if (r := rewards[e.id]) is not None]
    return Selection(chosen, {
        "episodes": len(episodes),
        **counts,
        "success_rate": mean([float(bool(e.success)) for e in valid if e.success is not None]),
        "mean_reward": mean(known),
        "truncated_share": mean([float(e.status == "truncated") for e in valid]),
        "mean_turns": mean([float(len(turns[e.id])) for e in valid]),
        "errors": len(episodes) - len(valid),
    })


def samples(session: Session, episode_ids: list[str]) -> list[Sample]:
    """Return the samples of chosen episodes."""
    rows = {e.id: e for e in session.scalars(sa.select(EpisodeRow).where(EpisodeRow.id.in_(episode_ids)))}
    nodes: dict[str, list[NodeRow]] = nodes_of(session, episode_ids)
    turns = _turns_of(session, episode_ids)
    rewards = rewards_of(session, episode_ids)
    return [sample for i in episode_ids if i in rows
            for sample in samples_of(i, rows[i].group_key, rewards[i] or 0.0, nodes[i], turns[i])]


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


def _turns_of(session: Session, episode_ids: list[str]) -> dict[str, list[TurnRow]]:
    found: dict[str, list[TurnRow]] = {i: [] for i in episode_ids}
    for turn in session.scalars(sa.select(TurnRow).where(TurnRow.episode_id.in_(episode_ids)).order_by(TurnRow.index)):
        found[turn.episode_id].append(turn)
    return found


def _fresh(turns: list[TurnRow], oldest: int) -> bool:
    """Whether the policy itself sampled every turn, recently enough; a demonstration has no version."""
    return all(t.policy_version is not None and t.policy_version >= oldest for t in turns)
