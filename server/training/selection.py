"""Which episodes a batch takes: ended well, rewarded, trainable, fresh, and in complete groups (step 6).

What an episode itself has to be is decided in SQL; what it is beside the others of its group, here.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.recording.transcript import mean, nodes_of
from server.rewards.totals import rewards_of
from server.store.tables import ApiKeyRow, EpisodeRow, NodeRow, RewardRow, RunEpisodeRow, StepRow, TurnRow
from server.training.branches import samples_of
from upturn.wire import LivePlan, RunConfig, Sample

LIVE_CANDIDATES = 1024  # Newest live episodes among which groups are looked for.
MIN_GROUP = 2  # A group's advantage needs a comparison.
OFF_POLICY = ("sft", "agent_evol", "dpo")  # They imitate what is good, whoever sampled it and when.
UNGROUPED = ("reinforce_pp", "ppo")  # They compare an episode with the batch, or with a value.
ENDED = (
    EpisodeRow.trainable,
    EpisodeRow.status != "open",
    EpisodeRow.purpose != "evaluation",
    # An environment that was left before its end has given no verdict.
    sa.or_(EpisodeRow.status != "closed", EpisodeRow.environment.is_(None)),
)


@dataclass(slots=True)
class Selection:
    """The episodes of a batch and what was left out, with why."""

    episode_ids: list[str] = field(default_factory=list)
    rewards: dict[str, float] = field(default_factory=dict)
    """Of these episodes, as of now."""
    stats: dict[str, Any] = field(default_factory=dict)
    """Fields of the batch's view."""


@dataclass(slots=True)
class _Taken:
    """What was taken of some episodes."""

    ids: list[str] = field(default_factory=list)
    looked_at: list[EpisodeRow] = field(default_factory=list)
    """Taken ones, and those that nothing can be learned from; not those there was no room for."""
    counts: Counter[str] = field(default_factory=Counter)


def select(
    session: Session, config: RunConfig, *, run_id: str, play_id: str | None, head: int, now: float
) -> Selection:
    """Choose the episodes of one batch: of its play, and recorded live ones that this run has not had.

    Args:
        session: of the database.
        config: the run's.
        run_id: of the run.
        play_id: of the batch's play; None takes live episodes alone.
        head: newest version, which staleness is counted from.
        now: the time, which the age of live episodes is counted from.
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
    of_live = _take(session, config, live, rewards, room)
    considered = [*valid, *of_live.looked_at]
    turns = _turn_counts(session, [e.id for e in considered])
    environments = {e.id: e.environment for e in valid}
    ids = sorted(of_play.ids + of_live.ids)
    return Selection(
        ids,
        {i: rewards[i] or 0.0 for i in ids},
        {
            "episodes": len(played) + len(of_live.looked_at),
            **dict.fromkeys(("groups", "groups_without_variance", "groups_incomplete"), 0),
            **(of_play.counts + of_live.counts),
            "success_rate": mean([float(bool(e.success)) for e in considered if e.success is not None]),
            "mean_reward": mean([r for e in considered if (r := rewards[e.id]) is not None]),
            "truncated_share": mean([float(e.status == "truncated") for e in considered]),
            "mean_turns": mean([float(turns.get(e.id, 0)) for e in considered]),
            "errors": len(played) - len(valid),
            "played_episodes": len(of_play.ids),
            "live_episodes": len(of_live.ids),
            "by_environment": dict(Counter(environments[i] or "" for i in of_play.ids)),
        },
    )


def _usable(config: RunConfig, head: int) -> list[sa.SQLColumnExpression[bool]]:
    """Return what an episode has to be for this run's algorithm, whoever played it."""
    turns = sa.select(TurnRow.id).where(TurnRow.episode_id == EpisodeRow.id)
    conditions = [*ENDED, EpisodeRow.status != "error", turns.exists()]
    if config.algorithm not in OFF_POLICY:  # A demonstration has no version: the policy itself sampled every turn.
        stale = sa.or_(TurnRow.policy_version.is_(None), TurnRow.policy_version < head - config.max_staleness)
        conditions.append(~turns.where(stale).exists())
    return conditions


def _live(plan: LivePlan, run_id: str, now: float) -> sa.Select[EpisodeRow]:
    """Return the live episodes that a plan allows and this run has not had, the newest first."""
    had = sa.select(RunEpisodeRow.episode_id).where(RunEpisodeRow.run_id == run_id)
    given = sa.select(RewardRow.id).where(RewardRow.episode_id == EpisodeRow.id)
    earned = sa.select(StepRow.episode_id).where(StepRow.episode_id == EpisodeRow.id)
    query = sa.select(EpisodeRow).where(
        EpisodeRow.play_id.is_(None), EpisodeRow.id.not_in(had), sa.or_(given.exists(), earned.exists())
    )
    if plan.sources:
        given = given.where(RewardRow.source.in_(plan.sources))
        query = query.where(given.exists())
    if plan.min_rewards > 0:
        counted = given.with_only_columns(sa.func.count(RewardRow.id)).scalar_subquery()
        query = query.where(counted >= plan.min_rewards)
    if plan.keys:
        hashes = sa.select(ApiKeyRow.key_hash).where(sa.or_(ApiKeyRow.id.in_(plan.keys), ApiKeyRow.name.in_(plan.keys)))
        query = query.where(EpisodeRow.owner_hash.in_(hashes))
    if plan.max_age_s is not None:
        query = query.where(EpisodeRow.closed_at >= now - plan.max_age_s)
    return query.order_by(EpisodeRow.id.desc()).limit(LIVE_CANDIDATES)


def _room(plan: LivePlan | None, played: int | None) -> int:
    """Return how many live episodes a batch takes beside its played ones; None is a batch without a play."""
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
) -> _Taken:
    """Return which of some usable episodes the algorithm learns from, in whole groups that fit into `room`."""
    prompts = first_prompts(session, [e.id for e in episodes]) if config.algorithm == "dpo" else {}
    together = config.algorithm not in ("sft", "agent_evol")
    groups: dict[str, list[EpisodeRow]] = defaultdict(list)
    for episode in episodes:
        if rewards[episode.id] is not None:
            key = (episode.group_key or prompts.get(episode.id)) if together else None
            groups[key or episode.id].append(episode)
    taken = _Taken()
    for members in groups.values():
        ids, problem = _of_group(config, members, {e.id: rewards[e.id] or 0.0 for e in members})
        if room is not None and len(ids) > room - len(taken.ids):
            ids = ids[: room - len(taken.ids)] if config.algorithm in UNGROUPED else []
            if not ids:
                continue
        taken.ids += ids
        taken.looked_at += members
        if ids or problem:
            taken.counts[problem or "groups"] += 1
    return taken


def _of_group(config: RunConfig, members: list[EpisodeRow], rewards: dict[str, float]) -> tuple[list[str], str | None]:
    """Return which episodes of a group the algorithm learns from, and the count that names why there are none."""
    if config.algorithm == "sft":
        return [e.id for e in members if e.success or (e.success is None and rewards[e.id] > 0)], None
    if config.algorithm == "agent_evol":
        return [i for i, reward in rewards.items() if reward > config.evol_threshold], None
    alone = members[0].group_key is None
    if config.algorithm in UNGROUPED or (config.algorithm == "reinforce_pp_baseline" and alone):
        return list(rewards), None  # The batch is the baseline, or a value.
    if len(rewards) < MIN_GROUP:
        return [], "groups_incomplete"
    best, worst = max(rewards.values()), min(rewards.values())
    if config.algorithm == "dpo":
        if best - worst < config.dpo_min_gap:
            return [], "groups_without_variance"
        ordered = sorted(rewards)
        return [next(i for i in ordered if rewards[i] == end) for end in (best, worst)], None
    return ([], "groups_without_variance") if best == worst else (list(rewards), None)


def samples(
    session: Session, episode_ids: list[str], *, by_prompt: bool = False, rewards: Mapping[str, float] | None = None
) -> list[Sample]:
    """Return the samples of chosen episodes.

    `by_prompt` makes a group of the episodes without one that begin with the same prompt, as DPO's selection did.
    `rewards` are those that the batch was chosen with; an episode that is not in them has what it has now.
    """
    prompts = first_prompts(session, episode_ids) if by_prompt else {}
    rows = {e.id: e for e in session.scalars(sa.select(EpisodeRow).where(EpisodeRow.id.in_(episode_ids)))}
    nodes: dict[str, list[NodeRow]] = nodes_of(session, episode_ids)
    turns = _turns_of(session, episode_ids)
    used = rewards_of(session, [i for i in episode_ids if i not in (rewards or {})]) | dict(rewards or {})
    return [
        sample
        for i in episode_ids
        if i in rows
        for sample in samples_of(i, rows[i].group_key or prompts.get(i), used[i] or 0.0, nodes[i], turns[i])
    ]


def first_prompts(session: Session, episode_ids: list[str]) -> dict[str, str]:
    """Return a name for the prompt that each episode began with: equal for the same token ids."""
    query = (
        sa.select(NodeRow.episode_id, NodeRow.token_ids)
        .where(NodeRow.episode_id.in_(episode_ids), NodeRow.parent_id.is_(None))
        .order_by(NodeRow.id.desc())
    )
    return {episode_id: f"prompt-{sha256(ids).hexdigest()[:32]}" for episode_id, ids in session.execute(query)}


def _turns_of(session: Session, episode_ids: list[str]) -> dict[str, list[TurnRow]]:
    found: dict[str, list[TurnRow]] = {i: [] for i in episode_ids}
    for turn in session.scalars(sa.select(TurnRow).where(TurnRow.episode_id.in_(episode_ids)).order_by(TurnRow.index)):
        found[turn.episode_id].append(turn)
    return found


def _turn_counts(session: Session, episode_ids: list[str]) -> dict[str, int]:
    query = sa.select(TurnRow.episode_id, sa.func.count()).where(TurnRow.episode_id.in_(episode_ids))
    return dict(session.execute(query.group_by(TurnRow.episode_id)).all())
