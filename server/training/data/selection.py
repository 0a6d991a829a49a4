"""Selects a batch's episodes: properly ended, rewarded, trainable, fresh, and in complete groups (step 6).

SQL decides about each episode by itself (`live_episodes.py` has the conditions on live ones); this module then compares
the episodes of each group. What an algorithm learns from is in its traits (`upturn.wire.ALGORITHMS`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.recording.transcript import mean
from server.rewards.rules import read_rules
from server.rewards.totals import rewards_of
from server.store.chunks import chunks
from server.store.tables import EpisodeRow, TurnRow
from server.training.data.branches import first_prompts
from server.training.data.episode_order import place
from server.training.data.live_episodes import (
    ENDED,
    Condition,
    LiveSearch,
    plan_of,
    usable,
    waiting,
)
from upturn.wire import LivePlan, RunConfig

MIN_GROUP = 2  # A comparison needs two episodes.


@dataclass(slots=True)
class Selection:
    """The episodes of a batch, and counts of the episodes left out."""

    episode_ids: list[str] = field(default_factory=list)
    rewards: dict[str, float] = field(default_factory=dict)
    """Rewards of these episodes at the time of selection."""
    stats: dict[str, Any] = field(default_factory=dict)
    """Fields of `BatchView`."""
    alike: Counter[str] = field(default_factory=Counter)
    """Played groups without variance, by environment."""


@dataclass(slots=True)
class Taken:
    """The part of some candidate episodes that a batch takes."""

    groups: dict[str, list[str]] = field(default_factory=dict)
    """The episodes taken, by group; an episode without a group has its own id as the name."""
    considered: list[EpisodeRow] = field(default_factory=list)
    """Episodes taken or found useless to the algorithm, without episodes for which there was no room."""
    counts: Counter[str] = field(default_factory=Counter)
    alike: Counter[str] = field(default_factory=Counter)
    """Groups without variance, by environment."""

    @property
    def ids(self) -> list[str]:
        """The episodes taken."""
        return [i for ids in self.groups.values() for i in ids]


def select(
    session: Session,
    config: RunConfig,
    *,
    run_id: str,
    play_id: str | None,
    head: int,
    oldest: int,
    now: float,
    further: Sequence[str] = (),
) -> Selection:
    """Select the episodes of one batch: from its play, and live ones that are not used.

    Args:
        session: database session.
        config: the run's config.
        run_id: the run.
        play_id: the batch's play; None selects live episodes only.
        head: newest version, from which the staleness of played episodes is counted.
        oldest: oldest version whose live episodes are not stale.
        now: current time, from which the age of live episodes is counted.
        further: further plays of the batch.
    """
    played = (
        []
        if play_id is None
        else session.execute(
            sa.select(EpisodeRow, sa.and_(*usable(config, head - config.max_staleness))).where(
                EpisodeRow.play_id.in_([play_id, *further]), *ENDED
            )
        ).all()
    )
    played = sorted(played, key=lambda one: place(one[0]))
    valid = [e for e, _ in played if e.status != "error"]
    rewards = rewards_of(session, [e.id for e in valid])
    of_play = take(session, config, [e for e, fit in played if fit], rewards)
    of_live, plan = Taken(), plan_of(config) if play_id is None else config.live
    if plan is not None:
        search = LiveSearch(config, plan, read_rules(session), oldest, now, run_id)
        of_live = _of_live(session, search, None if play_id is None else len(of_play.ids), rewards)
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
        of_play.alike,
    )


def takes(
    session: Session,
    search: LiveSearch,
    room: int | None,
    rewards: dict[str, float | None],
    also: Sequence[Condition] = (),
) -> Iterator[Taken]:
    """Yield the part of the live episodes to take, after each page of candidates that is read.

    Args:
        session: database session.
        search: finds the candidates.
        room: maximum number of episodes; None is no limit.
        rewards: gets the rewards of the candidates.
        also: further conditions on each candidate.
    """
    live: list[EpisodeRow] = []
    for page in search.pages(session, also):
        live += page
        rewards |= rewards_of(session, [e.id for e in page])
        incomplete = waiting(session, search.plan, live, rewards, search.now)
        yield take(session, search.config, live, rewards, room, incomplete, search.plan.limit)


def _of_live(session: Session, search: LiveSearch, played: int | None, rewards: dict[str, float | None]) -> Taken:
    """Take a batch's live episodes next to `played` ones; None is a batch without a play.

    With too few episodes, a batch without a play stays empty and says why.
    """
    taken, room = Taken(), _room(search.plan, played)
    if room == 0:
        return taken
    for taken in takes(session, search, room, rewards):
        if len(taken.ids) >= room:
            break
    found = set(taken.ids)
    if played is None and len(found) < search.plan.fewest:
        taken.considered = [e for e in taken.considered if e.id not in found]
        taken.groups = {}
        del taken.counts["groups"]
        taken.counts["live_too_few"] = len(found)
        taken.counts.update(search.left_out(session))
    return taken


def _room(plan: LivePlan, played: int | None) -> int:
    """Return the maximum number of live episodes next to `played` ones; None is a batch without a play."""
    if played is None:
        return plan.limit
    return min(plan.limit, int(played * plan.share / (1 - plan.share) + 1e-9))


def take(
    session: Session,
    config: RunConfig,
    episodes: Sequence[EpisodeRow],
    rewards: dict[str, float | None],
    room: int | None = None,
    incomplete: Collection[str] = (),
    largest: int | None = None,
) -> Taken:
    """Take the usable episodes that the algorithm learns from, in whole groups if it compares them.

    Args:
        session: database session.
        config: the run's config.
        episodes: the candidates, the preferred first.
        rewards: their rewards; an episode without one is not taken.
        room: maximum number of episodes; None is no limit.
        incomplete: groups that are not complete yet.
        largest: size above which a group never fits into a batch; None is no limit.
    """
    traits = config.traits
    prompts = first_prompts(session, [e.id for e in episodes]) if traits.by_prompt else {}
    groups: dict[str, list[EpisodeRow]] = defaultdict(list)
    for episode in episodes:
        if rewards[episode.id] is not None:
            key = None if traits.selects_singly else (episode.group_key or prompts.get(episode.id))
            groups[key or episode.id].append(episode)
    taken, left = Taken(), room
    for name, members in groups.items():
        if traits.groups != "ignored" and not traits.selects_singly and name in incomplete:
            taken.counts["groups_incomplete"] += 1
            continue
        ids, problem = _of_group(config, members, {e.id: rewards[e.id] or 0.0 for e in members})
        if traits.groups != "ignored" and largest is not None and len(ids) > largest:
            taken.counts["groups_too_large"] += 1
            continue
        if left is not None and len(ids) > left:
            ids = ids[:left] if traits.groups == "ignored" else []
            if not ids:
                continue
        if ids:
            taken.groups[name] = ids
            left = None if left is None else left - len(ids)
        if problem == "groups_without_variance":
            taken.alike[members[0].environment or ""] += 1
        if problem == "groups_incomplete" and not (traits.by_prompt or members[0].group_key or members[0].play_id):
            taken.counts["live_ungrouped"] += 1
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
        ordered = sorted(members, key=place)
        return [next(e.id for e in ordered if rewards[e.id] == end) for end in (best, worst)], None
    return ([], "groups_without_variance") if best == worst else (list(rewards), None)


def _turn_counts(session: Session, episode_ids: list[str]) -> dict[str, int]:
    query = sa.select(TurnRow.episode_id, sa.func.count()).group_by(TurnRow.episode_id)
    return {
        episode_id: count
        for ids in chunks(episode_ids)
        for episode_id, count in session.execute(query.where(TurnRow.episode_id.in_(ids)))
    }
