"""What triggers count, and how often."""

from __future__ import annotations

import time

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.store.database import Database
from server.store.tables import EpisodeRow, PlayRow, RewardRow, TurnRow
from server.training.scheduling.activity import LONGEST_TURN_S, last_live_turn, scored_since
from server.training.scheduling.schedule import MAX_PAUSE_S, MIN_PAUSE_S, pause_after
from tests.support.runs.filled import fill
from upturn.wire import RunConfig

LATER = 1000.0
RUN = RunConfig(algorithm="reinforce_pp", steps=1)


@pytest.fixture(autouse=True)
def filled(database: Database) -> None:
    """Ten episodes of two turns; every second one is closed and has the reward 1."""
    fill(database, turns=20)


def closed(session: Session) -> list[EpisodeRow]:
    return list(session.scalars(sa.select(EpisodeRow).where(EpisodeRow.status == "closed").order_by(EpisodeRow.id)))


def reward(session: Session, episode: EpisodeRow, at: float, value: float = 1.0) -> None:
    session.add(RewardRow(id=f"rw_{episode.id}_{at}", episode_id=episode.id, value=value, source="u", created_at=at))
    session.flush()


def test_the_last_live_turn_is_found_among_plays_unless_it_is_too_long_ago(session: Session) -> None:
    last = session.scalar(sa.select(sa.func.max(TurnRow.created_at))) or 0.0
    assert last_live_turn(session, 0.0) == last
    assert last_live_turn(session, last + LONGEST_TURN_S / 2) == last, "it may have begun long before its answer"
    assert last_live_turn(session, last + LONGEST_TURN_S + 1) is None
    session.add(PlayRow(id="play", state="done", request={}, created_at=0.0))
    session.flush()
    newest = session.scalars(sa.select(EpisodeRow).order_by(EpisodeRow.id.desc())).first()
    assert newest is not None
    newest.play_id = "play"
    session.flush()
    assert last_live_turn(session, 0.0) == pytest.approx(last - 0.2)
    session.execute(sa.update(EpisodeRow).values(play_id="play"))
    assert last_live_turn(session, 0.0) is None


def test_an_episode_counts_when_it_ends_or_gets_its_first_reward(session: Session) -> None:
    since = time.time() + LATER

    def count(since: float | None, most: int = 100) -> int:
        return scored_since(session, RUN, since, time.time(), most)

    first, second, third, *_ = closed(session)
    assert (count(None), count(None, 3), count(since)) == (5, 3, 0)
    reward(session, first, since + 1)
    assert count(since) == 0, "it had a reward before"
    session.execute(sa.delete(RewardRow).where(RewardRow.episode_id == second.id))
    assert count(None) == 4
    reward(session, second, since + 1)
    third.closed_at = since + 1
    session.flush()
    assert count(since) == 2


def test_counting_takes_a_small_share_of_the_time() -> None:
    assert [pause_after(counted_in_s) for counted_in_s in (0.0, 1.0, 1000.0)] == [MIN_PAUSE_S, 20.0, MAX_PAUSE_S]
