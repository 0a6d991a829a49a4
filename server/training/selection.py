"""Selects a batch's episodes: properly ended, rewarded, trainable, fresh, and in complete groups (step 6).

SQL decides about each episode by itself; this module then compares the episodes of each group. What an algorithm learns
from is in its traits (`upturn.wire.ALGORITHMS`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.recording.transcript import mean
from server.rewards.totals import rewards_of
from server.store.tables import ApiKeyRow, EpisodeRow, RewardRow, RunEpisodeRow, StepRow, TurnRow
from server.training.branches import first_prompts
from upturn.wire import LivePlan, RunConfig

LIVE_CANDIDATES = 1024  # Newest live episodes that are searched for groups.
MIN_GROUP = 2  # A comparison needs two episodes.
ENDED = (
    EpisodeRow.trainable,
    EpisodeRow.status != "open",
    EpisodeRow.purpose != "evaluation",
    # An environment that was closed before its end gave no verdict.
    sa.or_(EpisodeRow.status != "closed", EpisodeRow.environment.is_(None)),
)


@dataclass(slots=True)
class Selection:
    """The episodes of a batch, and counts of the episodes left out."""

    episode_ids: list[str] = field(default_factory=list)
    rewards: dict[str, float] = field(default_factory=dict)
    """Rewards of these episodes at the time of selection."""
    stats: dict[str, Any] = field(default_factory=dict)
    """Fields of `BatchView`."""


@dataclass(slots=True)
class _Taken:
    """The part of some candidate episodes that a batch takes."""

    ids: list[str] = field(default_factory=list)
    considered: list[EpisodeRow] = field(default_factory=list)
    """Episodes taken or found useless to the algorithm, without episodes for which there was no room."""
    counts: Counter[str] = field(default_factory=Counter)


def select(
    session: Session, config: RunConfig, *, run_id: str, play_id: str | None, head: int, now: float
) -> Selection:
    """Select the episodes of one batch: from its play, and live ones that this run has not trained on.

    Args:
        session: database session.
        config: the run's config.
        run_id: the run.
        play_id: the batch's play; None selects live episodes only.
        head: newest version, from which staleness is counted.
        now: current time, from which the age of live episodes is counted.
    """
    usable = _usable(config, head)
    played = (
        []
        if play_id is None
        else session.execute(
            sa.select(EpisodeRow, sa.and_(*usable)).where(EpisodeRow.play_id == play_id, *ENDED).order_by(EpisodeRow.id)
        ).all()
    )
    valid = [e for e, _ in played if e.status != "error"]
    live_plan = config.live or (LivePlan() if play_id is None else None)
    live = [] if live_plan is None else session.scalars(_live(live_plan, run_id, now).where(*usable)).all()
    rewards = rewards_of(session, [e.id for e in (*valid, *live)])
    of_play = _take(session, config, [e for e, fit in played if fit], rewards)
    room = _room(live_plan, len(of_play.ids) if play_id is not None else None)
    waiting = set() if live_plan is None else _waiting(session, live_plan, live, rewards, now)
    of_live = _take(session, config, live, rewards, room, waiting)
    considered = [*valid, *of_live.considered]
    turns = _turn_counts(session, [e.id for e in considered])
    environments = {e.id: e.environment for e in valid}
    ids = sorted(of_play.ids + of_live.ids)
    taken = {i: rewards[i] or 0.0 for i in ids}
    return Selection(
        ids,
        taken,
        {
            "episodes": len(played) + len(of_live.considered),
            **dict.fromkeys(("groups", "groups_without_variance", "groups_incomplete"), 0),
            **(of_play.counts + of_live.counts),
            "success_rate": mean([float(bool(e.success)) for e in considered if e.success is not None]),
            "mean_reward": mean([r for e in considered if (r := rewards[e.id]) is not None]),
            "truncated_share": mean([float(e.status == "truncated") for e in considered]),
            "mean_turns": mean([float(turns.get(e.id, 0)) for e in considered]),
            "errors": len(played) - len(valid),
            "played_episodes": len(of_play.ids),
            "live_episodes": len(of_live.ids),
            "episodes_with_equal_rewards": len(ids) if len(set(taken.values())) == 1 else 0,
            "by_environment": dict(Counter(environments[i] or "" for i in of_play.ids)),
        },
    )


def _usable(config: RunConfig, head: int) -> list[sa.SQLColumnExpression[bool]]:
    """Return the conditions on each episode, played or live."""
    turns = sa.select(TurnRow.id).where(TurnRow.episode_id == EpisodeRow.id)
    conditions = [*ENDED, EpisodeRow.status != "error", turns.exists()]
    if not config.traits.off_policy:  # The policy itself sampled every turn; a demonstration has no version.
        stale = sa.or_(TurnRow.policy_version.is_(None), TurnRow.policy_version < head - config.max_staleness)
        conditions.append(~turns.where(stale).exists())
    return conditions


def _live(plan: LivePlan, run_id: str, now: float) -> sa.Select[EpisodeRow]:
    """Return the query of live episodes that the plan allows and this run has not trained on, newest first."""
    had = sa.select(RunEpisodeRow.episode_id).where(RunEpisodeRow.run_id == run_id)
    external = sa.select(RewardRow.id).where(RewardRow.episode_id == EpisodeRow.id)
    earned = sa.select(StepRow.episode_id).where(StepRow.episode_id == EpisodeRow.id)
    query = sa.select(EpisodeRow).where(
        EpisodeRow.play_id.is_(None), EpisodeRow.id.not_in(had), sa.or_(external.exists(), earned.exists())
    )
    if plan.sources:
        external = external.where(RewardRow.source.in_(plan.sources))
        query = query.where(external.exists())
    if plan.min_rewards > 0:
        counted = external.with_only_columns(sa.func.count(RewardRow.id)).scalar_subquery()
        query = query.where(counted >= plan.min_rewards)
    if plan.keys:
        hashes = sa.select(ApiKeyRow.key_hash).where(sa.or_(ApiKeyRow.id.in_(plan.keys), ApiKeyRow.name.in_(plan.keys)))
        query = query.where(EpisodeRow.owner_hash.in_(hashes))
    if plan.max_age_s is not None:
        query = query.where(EpisodeRow.closed_at >= now - plan.max_age_s)
    return query.order_by(EpisodeRow.id.desc()).limit(LIVE_CANDIDATES)


def _waiting(
    session: Session, plan: LivePlan, live: Sequence[EpisodeRow], rewards: dict[str, float | None], now: float
) -> set[str]:
    """Return the groups of live episodes of which some are open, unless they have the declared size or age."""
    sizes = Counter(e.group_key for e in live if e.group_key is not None and rewards[e.id] is not None)
    group = EpisodeRow.group_key
    first = sa.func.min(EpisodeRow.opened_at)
    still_open = sa.func.sum(sa.case((sa.and_(EpisodeRow.status == "open", EpisodeRow.trainable), 1), else_=0))
    query = (
        sa.select(group, first)
        .where(group.in_(sizes), EpisodeRow.play_id.is_(None), EpisodeRow.purpose != "evaluation")
        .group_by(group)
        .having(still_open > 0)
    )
    return {
        name
        for name, opened_at in session.execute(query)
        if name is not None
        and not (plan.group_size is not None and sizes[name] >= plan.group_size)
        and not (plan.group_wait_s is not None and now - opened_at >= plan.group_wait_s)
    }


def _room(plan: LivePlan | None, played: int | None) -> int:
    """Return the maximum number of live episodes next to `played` ones; None is a batch without a play."""
    if plan is None:
        return 0
    if played is None:
        return plan.limit
    return min(plan.limit, int(played * plan.share / (1 - plan.share) + 1e-9))


def _take(
    session: Session,
    config: RunConfig,
    episodes: Sequence[EpisodeRow],
    rewards: dict[str, float | None],
    room: int | None = None,
    waiting: Collection[str] = (),
) -> _Taken:
    """Take the usable episodes that the algorithm learns from, in whole groups if it compares them, up to `room`.

    Groups in `waiting` are not complete yet.
    """
    traits = config.traits
    prompts = first_prompts(session, [e.id for e in episodes]) if traits.by_prompt else {}
    groups: dict[str, list[EpisodeRow]] = defaultdict(list)
    for episode in episodes:
        if rewards[episode.id] is not None:
            key = None if traits.selects_singly else (episode.group_key or prompts.get(episode.id))
            groups[key or episode.id].append(episode)
    taken = _Taken()
    for name, members in groups.items():
        if traits.groups != "ignored" and not traits.selects_singly and name in waiting:
            taken.counts["groups_incomplete"] += 1
            continue
        ids, problem = _of_group(config, members, {e.id: rewards[e.id] or 0.0 for e in members})
        if room is not None and len(ids) > room - len(taken.ids):
            ids = ids[: room - len(taken.ids)] if traits.groups == "ignored" else []
            if not ids:
                continue
        taken.ids += ids
        taken.considered += members
        if ids or problem:
            taken.counts[problem or "groups"] += 1
    return taken


def _of_group(config: RunConfig, members: list[EpisodeRow], rewards: dict[str, float]) -> tuple[list[str], str | None]:
    """Return the episodes of a group that the algorithm learns from, or the name of the count for a useless group."""
    traits = config.traits
    if traits.episodes == "successes":
        return [e.id for e in members if e.success or (e.success is None and rewards[e.id] > 0)], None
    if traits.episodes == "above_threshold":
        return [i for i, reward in rewards.items() if reward > config.evol_threshold], None
    if traits.groups == "ignored" or (traits.groups == "optional" and members[0].group_key is None):
        return list(rewards), None
    if len(rewards) < MIN_GROUP:
        return [], "groups_incomplete"
    best, worst = max(rewards.values()), min(rewards.values())
    if traits.episodes == "best_and_worst":
        if best - worst < config.dpo_min_gap:
            return [], "groups_without_variance"
        ordered = sorted(rewards)
        return [next(i for i in ordered if rewards[i] == end) for end in (best, worst)], None
    return ([], "groups_without_variance") if best == worst else (list(rewards), None)


def _turn_counts(session: Session, episode_ids: list[str]) -> dict[str, int]:
    query = sa.select(TurnRow.episode_id, sa.func.count()).where(TurnRow.episode_id.in_(episode_ids))
    return dict(session.execute(query.group_by(TurnRow.episode_id)).all())
