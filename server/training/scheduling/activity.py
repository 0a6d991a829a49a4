"""Recent activity of live agents, from SQL: newly scored episodes, and the last live turn."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.rewards.rules import read_rules
from server.store.chunks import chunks
from server.store.database import id_at
from server.store.tables import EpisodeRow, RewardRow, TurnRow
from server.training.live_episodes import ENDED, LiveSearch, group_ends, group_starts, oldest_live, plan_of, scored
from server.training.selection import takes
from upturn.wire import LivePlan, RunConfig

LONGEST_TURN_S = 3600.0
"""A turn gets its id when it begins; longest time from then to its answer."""


def scored_since(session: Session, config: RunConfig, since: float | None, now: float, most: int) -> int:
    """Count the episodes that a run which begins now would take, and could not have taken at an earlier time.

    The same search as for a run's batches finds them, without the limit of a batch. Episodes count once they have
    ended and are rewarded as the run requires, and if its algorithm compares groups, once their group is complete.

    Args:
        session: database session.
        config: the run; for one that takes no live episodes, all that are scored and not used count.
        since: the earlier time, in Unix seconds; None counts all that the run would take.
        now: current time, in Unix seconds.
        most: stop at this number.
    """
    plan = plan_of(config)
    oldest = 0 if plan is None else oldest_live(session, config)
    search = LiveSearch(config, plan or LivePlan(), read_rules(session), oldest, now)
    traits = config.traits
    if plan is None or (traits.groups == "ignored" and traits.episodes == "all"):
        fit = [*ENDED, EpisodeRow.status != "error", *search.unused()] if plan is None else search.conditions()
        query = sa.select(EpisodeRow.id).where(*fit, *newly(search, since)).limit(most)
        return session.scalar(sa.select(sa.func.count()).select_from(query.subquery())) or 0
    count = 0
    if traits.groups == "ignored":
        for taken in takes(session, search, most, {}, newly(search, since)):
            count = len(taken.ids)
        return count
    for taken in takes(session, search, None, {}):
        count = sum(len(ids) for ids in _newly_complete(session, search, taken.groups, since))
        if count >= most:
            return most
    return count


def newly(search: LiveSearch, since: float | None) -> list[sa.ColumnElement[bool]]:
    """Return the conditions that an episode was not scored at an earlier time; none for no time."""
    if since is None:
        return []
    ended = sa.select(EpisodeRow.id).where(EpisodeRow.play_id.is_(None), EpisodeRow.closed_at > since)
    changed = ended.union_all(sa.select(RewardRow.episode_id).where(RewardRow.created_at > since))
    return [EpisodeRow.id.in_(changed), ~sa.and_(*scored(search.plan, search.rules, since))]


def _newly_complete(
    session: Session, search: LiveSearch, groups: dict[str, list[str]], since: float | None
) -> list[Sequence[str]]:
    """Return the groups that were not complete at an earlier time.

    A group is complete since its newest episode was scored, since the last of its open episodes ended, or since its
    first one had the age from which a group does not wait.
    """
    if since is None or not groups:
        return list(groups.values())
    ids = [i for members in groups.values() for i in members]
    found = sa.select(EpisodeRow.id).where(*newly(search, since))
    fresh = {i for some in chunks(ids) for i in session.scalars(found.where(EpisodeRow.id.in_(some)))}
    wait_s = search.plan.group_wait_s
    later: set[str | None] = set()
    for names in chunks([name for name, members in groups.items() if fresh.isdisjoint(members)]):
        later |= {name for name, ended_at in session.execute(group_ends(names)) if ended_at > since}
        if wait_s is not None:
            later |= {name for name, opened_at in session.execute(group_starts(names)) if opened_at + wait_s > since}
    return [members for name, members in groups.items() if name in later or not fresh.isdisjoint(members)]


def last_live_turn(session: Session, since: float) -> float | None:
    """Return the time of the last answer to an agent, or None if there is none since a time, in Unix seconds.

    The server's own plays are ignored.
    """
    return session.scalar(live_turns(since).limit(1))


def live_turns(since: float) -> sa.Select[float]:
    """Return the query of the times of answers to agents since a time, the newest first."""
    live = sa.exists().where(EpisodeRow.id == TurnRow.episode_id, EpisodeRow.play_id.is_(None))
    return (
        sa.select(TurnRow.created_at)
        .where(TurnRow.id >= id_at("turn", max(0.0, since - LONGEST_TURN_S)), live)
        .order_by(TurnRow.id.desc())
    )
