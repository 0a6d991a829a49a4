"""Rewards of a version's live episodes, each read at the same age, in the order in which the episodes opened.

A live episode was opened with an API key on this server: it is neither one of the server's own plays nor imported. It
counts for a version if that version alone answered in it until it was `maturity_s` old, and if it then had a reward
that counts: that of its environment, if it had ended, or one from outside. Later rewards and turns change nothing. So
whether and what an episode counts depends neither on the time of the check nor on the delays of good and bad rewards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.rewards.rules import read_rules
from server.rewards.totals import rewards_of
from server.store.tables import EpisodeRow, RewardRow, StepRow, TurnRow

SETTLED_S = 60.0
"""Time for rows of a moment to be committed: no episode is read sooner after its maturity."""


class LiveReward(NamedTuple):
    """The reward of one live episode at its maturity."""

    opened_at: float
    episode_id: str
    owner_hash: str
    """SHA-256 of the API key that opened the episode."""
    reward: float


@dataclass(frozen=True, slots=True)
class Window:
    """Which live episodes are read, at which age, and in which order."""

    opened_from: float
    """Only episodes opened at or after this time."""
    opened_before: float
    """Only episodes opened before this time."""
    maturity_s: float
    """Age at which an episode's reward is read."""
    newest_first: bool = False
    after_id: str = ""
    """Of the episodes opened at `opened_from`, only those with a later id."""


class Arm:
    """One side of a comparison: the live rewards of a version since a time. Each is read from the database once."""

    def __init__(
        self,
        version: int,
        opened_from: float,
        maturity_s: float,
        most: int,
        counts: Callable[[LiveReward], bool] | None = None,
    ) -> None:
        self._version = version
        self._maturity_s = maturity_s
        self._most = most
        self._counts = counts
        self._opened_from = opened_from
        self._state: tuple[list[LiveReward], float, str] = [], opened_from, ""
        """The rewards of the episodes before a time and id. Replaced as a whole: threads may read at the same time."""

    def read(self, session: Session, now: float) -> list[LiveReward]:
        """Return the rewards that are mature now, up to `most`, oldest episode first."""
        known, since, after_id = self._state
        until = now - self._maturity_s - SETTLED_S
        wanted = self._most - len(known)
        if until < since:  # The clock has been set back: what was read until then may have been too little.
            since, after_id = known[-1][:2] if known else (self._opened_from, "")
        if until <= since or wanted <= 0:
            return known
        window = Window(since, until, self._maturity_s, after_id=after_id)
        found = live_rewards(session, self._version, window, wanted)
        if found:
            known = known + [reward for reward in found if self._counts is None or self._counts(reward)]
        at_the_end = (found[-1].opened_at, found[-1].episode_id) if len(found) == wanted else (until, "")
        self._state = known, *at_the_end
        return known


def live_rewards(session: Session, version: int, window: Window, limit: int) -> list[LiveReward]:
    """Return the first `limit` rewards of a version's live episodes, not counting episodes without one."""
    query = matured(version, window, read_rules(session).counted()).limit(limit)
    rows = session.execute(query).all()
    rewards = rewards_of(session, [row.id for row in rows], until_age_s=window.maturity_s)
    return [
        LiveReward(row.opened_at, row.id, row.owner_hash, reward)
        for row in rows
        if (reward := rewards[row.id]) is not None
    ]


def matured(
    version: int, window: Window, counted: sa.ColumnElement[bool]
) -> sa.Select[str, float, str | None, float | None, str | None]:
    """Return the query of a version's live episodes with a reward that counts, in the order of their opening.

    Args:
        version: the only version that answered in these episodes.
        window: which episodes, and at which age.
        counted: the condition on rewards that count.
    """
    matures_at = EpisodeRow.opened_at + window.maturity_s
    turn = sa.select(TurnRow.id).where(TurnRow.episode_id == EpisodeRow.id, TurnRow.created_at <= matures_at)
    given = sa.exists().where(RewardRow.episode_id == EpisodeRow.id, RewardRow.created_at <= matures_at, counted)
    stepped = sa.exists().where(StepRow.episode_id == EpisodeRow.id)
    has_reward = sa.or_(
        sa.and_(
            EpisodeRow.environment.is_(None),
            sa.or_(EpisodeRow.status != "error", EpisodeRow.closed_at > matures_at),
            given,
        ),
        sa.and_(
            EpisodeRow.environment.is_not(None),
            EpisodeRow.status.in_(("terminated", "truncated")),
            EpisodeRow.closed_at <= matures_at,
            sa.or_(stepped, given),
        ),
    )
    query = sa.select(
        EpisodeRow.id, EpisodeRow.opened_at, EpisodeRow.owner_hash, EpisodeRow.closed_at, EpisodeRow.environment
    ).where(
        EpisodeRow.policy_version == version,
        EpisodeRow.owner_hash.is_not(None),
        EpisodeRow.purpose != "evaluation",
        EpisodeRow.opened_at >= window.opened_from,
        sa.or_(EpisodeRow.opened_at > window.opened_from, EpisodeRow.id > window.after_id),
        EpisodeRow.opened_at < window.opened_before,
        has_reward,
        turn.exists(),
        ~turn.where(TurnRow.policy_version.is_distinct_from(version)).exists(),
    )
    if window.newest_first:
        return query.order_by(EpisodeRow.opened_at.desc(), EpisodeRow.id.desc())
    return query.order_by(EpisodeRow.opened_at, EpisodeRow.id)
