"""Open episodes in memory: one object for each, whoever asks and whenever."""

from __future__ import annotations

import asyncio
import time

import pytest
import sqlalchemy as sa

from server.recording import episodes as module
from server.recording.recorder import Span
from server.store.database import Database
from server.store.tables import EpisodeRow, TurnRow
from tests.support.portable import ASK, Scribe

SPAN = Span(0, [1, 2], [-0.5, -0.5])


async def test_all_who_ask_for_a_recorded_episode_at_once_get_one_object(database: Database) -> None:
    before = Scribe(database)
    episode = await before.open(horizon=20)
    await before.turn(episode, ASK, [SPAN])
    after = Scribe(database)  # As after a restart.
    found = await asyncio.gather(*(after.episodes.get(episode.id) for _ in range(8)))
    assert all(each is found[0] for each in found) and found[0] is not episode
    await asyncio.gather(*(after.turn(each, [*ASK, *ASK], [SPAN]) for each in found))
    with database.read() as session:
        indexes = session.scalars(sa.select(TurnRow.index).order_by(TurnRow.index)).all()
    assert indexes == list(range(9))
    before.writer.close()
    after.writer.close()


async def test_an_episode_that_a_request_holds_is_not_read_a_second_time(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT_IN_MEMORY", 1)
    scribe = Scribe(database)
    held = await scribe.open()
    for _ in range(3):
        await scribe.open()
    assert held.id not in scribe.episodes._open
    assert await scribe.episodes.get(held.id) is held
    scribe.writer.close()


async def test_an_answer_whose_index_is_taken_gets_a_fresh_one(database: Database) -> None:
    one, other = Scribe(database), Scribe(database)
    episode = await one.open()
    twin = await other.episodes.get(episode.id)
    for scribe, each in ((one, episode), (other, twin), (other, twin), (one, episode)):
        await scribe.turn(each, ASK, [SPAN])
    with database.read() as session:
        assert session.scalars(sa.select(TurnRow.index).order_by(TurnRow.index)).all() == [0, 1, 2, 3]
        assert session.scalar(sa.select(EpisodeRow.opened_at)) < time.time()
    one.writer.close()
    other.writer.close()
