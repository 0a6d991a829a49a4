"""Which live episodes a run may take: batches that take them and triggers that count them share one condition.

A live episode is one that the server did not play. SQL decides about each by itself; `selection.py` then compares the
episodes of a group. An episode is used once a learner step has trained on it (its row in `run_episode` has a weight),
unless that run failed or was cancelled and no campaign continues its steps; the episodes of an unfinished run's batches
are reserved for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.rewards.rules import Rules
from server.store.tables import (
    ApiKeyRow,
    EpisodeRow,
    PolicyVersionRow,
    RewardRow,
    RunEpisodeRow,
    RunRow,
    StepRow,
    TurnRow,
)
from server.training.run_states import UNFINISHED
from server.versions.ledger import served_before
from upturn.wire import LivePlan, RunConfig

PAGE = 1024  # Live episodes that are read at a time.
PAGES = 16  # Pages that are searched for episodes that the algorithm learns from.
CLOCK_S = 3600.0  # Largest step back of the clock that does not make a fresh episode look stale.
Condition = sa.SQLColumnExpression[bool]

ENDED: tuple[Condition, ...] = (
    EpisodeRow.trainable,
    EpisodeRow.status != "open",
    EpisodeRow.purpose != "evaluation",
    # An environment that was closed before its end gave no verdict.
    sa.or_(EpisodeRow.status != "closed", EpisodeRow.environment.is_(None)),
)
LIVE: tuple[Condition, ...] = (EpisodeRow.play_id.is_(None), EpisodeRow.closed_at.is_not(None))


def plan_of(config: RunConfig) -> LivePlan | None:
    """Return which live episodes a run takes; None if it takes only played ones."""
    return config.live or (LivePlan() if config.play is None else None)


def oldest_live(session: Session, config: RunConfig) -> int:
    """Return the oldest version whose live episodes a run takes that begins now.

    `max_staleness` counts the versions that served live agents since: a head that nobody promoted, and the versions
    that a run publishes on the way to its candidate, make no live episode stale.
    """
    return 0 if config.traits.off_policy else served_before(session, config.max_staleness)


def usable(config: RunConfig, oldest: int) -> list[Condition]:
    """Return the conditions on an episode, played or live, apart from its reward.

    Args:
        config: the run's config.
        oldest: the oldest version whose turns are not stale.
    """
    conditions: list[Condition] = [*ENDED, EpisodeRow.status != "error", _turns().exists()]
    if not config.traits.off_policy:  # The policy itself sampled every turn; a demonstration has no version.
        conditions.append(~_stale(oldest))
    return conditions


@dataclass(frozen=True, slots=True)
class LiveSearch:
    """A search for the live episodes that a run may take."""

    config: RunConfig
    plan: LivePlan
    rules: Rules
    """Rewards that do not count are ignored."""
    oldest: int
    """Oldest version whose episodes are not stale."""
    now: float
    """Current time, from which the age of episodes is counted."""
    run_id: str | None = None
    """The run, which takes no episode twice; None is a run that has not begun."""

    def conditions(self) -> list[Condition]:
        """Return the conditions on an episode: usable, live, rewarded, as the plan says, and not used."""
        return [*usable(self.config, self.oldest), *self.unused()]

    def unused(self) -> list[Condition]:
        """Return the conditions on an episode, apart from whether it is usable."""
        return [
            *LIVE,
            *_allowed(self.plan, self.now),
            *scored(self.plan, self.rules),
            ~_had(self.plan, self.run_id),
        ]

    def pages(self, session: Session, also: Sequence[Condition] = ()) -> Iterator[list[EpisodeRow]]:
        """Yield the episodes that also meet further conditions, the last ended first."""
        conditions = [*self.conditions(), *also, *not_stale_after(session, self.config, self.oldest)]
        last: EpisodeRow | None = None
        for _ in range(PAGES):
            page = list(session.scalars(last_ended(conditions, last)))
            if page:
                yield page
            if len(page) < PAGE:
                return
            last = page[-1]

    def left_out(self, session: Session) -> dict[str, int]:
        """Return why the live episodes that ended last are not taken: fields of `BatchView`."""
        last = last_ended(LIVE).with_only_columns(EpisodeRow.id).subquery()
        why = sa.case(
            (sa.and_(*self.conditions()), "taken"),
            (~sa.and_(*ENDED, EpisodeRow.status != "error", _turns().exists()), "unusable"),
            (_had(self.plan, self.run_id), "live_used"),
            (~sa.and_(*scored(LivePlan(), self.rules)), "live_unrewarded"),
            (~sa.and_(*_allowed(self.plan, self.now), *scored(self.plan, self.rules)), "live_excluded"),
            else_="live_stale",
        )
        named = sa.select(why.label("why")).where(EpisodeRow.id.in_(sa.select(last))).subquery()
        counts = session.execute(sa.select(named.c.why, sa.func.count()).group_by(named.c.why))
        return {name: count for name, count in counts if name.startswith("live_")}


def scored(plan: LivePlan, rules: Rules, until: float | None = None) -> list[Condition]:
    """Return the conditions on the rewards of an ended episode.

    Args:
        plan: the run's plan.
        rules: the rules of all reward sources.
        until: whether it had ended and met them then; None is now. Unix seconds.
    """
    external = sa.select(RewardRow.id).where(RewardRow.episode_id == EpisodeRow.id, rules.counted())
    conditions: list[Condition] = []
    if until is not None:
        external = external.where(RewardRow.created_at <= until)
        conditions.append(EpisodeRow.closed_at <= until)
    earned = sa.select(StepRow.episode_id).where(StepRow.episode_id == EpisodeRow.id)
    conditions.append(sa.or_(external.exists(), earned.exists()))
    if plan.sources:
        external = external.where(RewardRow.source.in_(plan.sources))
        conditions.append(external.exists())
    if plan.min_rewards > 0:
        counted = external.with_only_columns(sa.func.count(RewardRow.id)).scalar_subquery()
        conditions.append(counted >= plan.min_rewards)
    return conditions


def last_ended(conditions: Sequence[Condition], after: EpisodeRow | None = None) -> sa.Select[EpisodeRow]:
    """Return the query of a page of episodes that meet some conditions, the last ended first, after an episode."""
    place = sa.tuple_(EpisodeRow.closed_at, EpisodeRow.id)
    further = [] if after is None else [place < (after.closed_at, after.id)]
    return (
        sa.select(EpisodeRow)
        .where(*conditions, *further)
        .order_by(EpisodeRow.closed_at.desc(), EpisodeRow.id.desc())
        .limit(PAGE)
    )


def not_stale_after(session: Session, config: RunConfig, oldest: int) -> list[Condition]:
    """Return the condition, if there is one, that an episode ended after the oldest version was made.

    It bounds the search: a version answers only after it was made, and an episode ends after its answers.
    """
    if config.traits.off_policy or oldest <= 0:
        return []
    made = session.scalar(sa.select(sa.func.min(PolicyVersionRow.created_at)).where(PolicyVersionRow.version >= oldest))
    return [] if made is None else [EpisodeRow.closed_at >= made - CLOCK_S]


def waiting(
    session: Session, plan: LivePlan, live: Sequence[EpisodeRow], rewards: Mapping[str, float | None], now: float
) -> set[str]:
    """Return the groups of live episodes of which some are open, unless they have the declared size or age."""
    sizes = Counter(e.group_key for e in live if e.group_key is not None and rewards[e.id] is not None)
    if not sizes:
        return set()
    return {
        name
        for name, opened_at in session.execute(group_starts(sizes))
        if name is not None
        and not (plan.group_size is not None and sizes[name] >= plan.group_size)
        and not (plan.group_wait_s is not None and now - opened_at >= plan.group_wait_s)
    }


def group_starts(groups: Collection[str]) -> sa.Select[str | None, float]:
    """Return the query of the groups, among some, of which live episodes are open, each with its first start."""
    still_open = sa.func.sum(sa.case((sa.and_(EpisodeRow.status == "open", EpisodeRow.trainable), 1), else_=0))
    return (
        sa.select(EpisodeRow.group_key, sa.func.min(EpisodeRow.opened_at))
        .where(*_of_groups(groups))
        .group_by(EpisodeRow.group_key)
        .having(still_open > 0)
    )


def group_ends(groups: Collection[str]) -> sa.Select[str | None, float]:
    """Return the query of some groups of live episodes, each with its last end."""
    ended = sa.func.coalesce(EpisodeRow.closed_at, 0.0)
    return sa.select(EpisodeRow.group_key, sa.func.max(ended)).where(*_of_groups(groups)).group_by(EpisodeRow.group_key)


def _of_groups(groups: Collection[str]) -> list[Condition]:
    return [EpisodeRow.group_key.in_(groups), EpisodeRow.play_id.is_(None), EpisodeRow.purpose != "evaluation"]


def _turns() -> sa.Select[str]:
    return sa.select(TurnRow.id).where(TurnRow.episode_id == EpisodeRow.id)


def _stale(oldest: int) -> Condition:
    return _turns().where(sa.or_(TurnRow.policy_version.is_(None), TurnRow.policy_version < oldest)).exists()


def _allowed(plan: LivePlan, now: float) -> list[Condition]:
    """Return the plan's conditions on the key and the age of an episode."""
    conditions: list[Condition] = []
    if plan.keys:
        hashes = sa.select(ApiKeyRow.key_hash).where(sa.or_(ApiKeyRow.id.in_(plan.keys), ApiKeyRow.name.in_(plan.keys)))
        conditions.append(EpisodeRow.owner_hash.in_(hashes))
    if plan.max_age_s is not None:
        conditions.append(EpisodeRow.closed_at >= now - plan.max_age_s)
    return conditions


def _had(plan: LivePlan, run_id: str | None) -> Condition:
    """Return the condition that a run has had an episode, or that other runs have used it as often as is allowed."""
    uses = (
        sa.select(RunEpisodeRow.run_id)
        .join(RunRow, RunRow.id == RunEpisodeRow.run_id)
        .where(
            RunEpisodeRow.episode_id == EpisodeRow.id,
            sa.or_(
                RunRow.state.in_(UNFINISHED),
                sa.and_(
                    sa.or_(RunRow.state == "done", RunRow.campaign_id.is_not(None)),
                    RunEpisodeRow.weight.is_not(None),
                ),
            ),
        )
    )
    conditions: list[Condition] = []
    if run_id is not None:
        conditions.append(sa.exists().where(RunEpisodeRow.run_id == run_id, RunEpisodeRow.episode_id == EpisodeRow.id))
    if plan.most_uses == 1:
        conditions.append(uses.exists())
    elif plan.most_uses is not None:
        counted = uses.with_only_columns(sa.func.count()).scalar_subquery()
        conditions.append(counted >= plan.most_uses)
    return sa.or_(sa.false(), *conditions)
