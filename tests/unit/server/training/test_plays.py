"""Plays end when they are told to, and say so in their row."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.environments.settings import EnvironmentSettings
from server.errors import Conflict
from server.store.tables import EpisodeRow, PlayRow
from server.wiring.parts import Parts
from tests.support.in_process import rows, running
from tests.support.live import script, settings_for
from upturn.wire import PlayRequest

REQUEST = PlayRequest(environment="odd/inline:x", tasks=["train/0"], group_size=2, horizon=3)


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    model = script(tmp_path / "script", "win")
    environments = EnvironmentSettings(modules=["tests.support.environments.odd_inline"], workers=0)
    async with running(settings_for(tmp_path / "data", model=str(model), environments=environments)) as made:
        yield made


@pytest.mark.parametrize("pauses", [0, 1, 2, 5])
async def test_a_play_that_is_canceled_at_once_ends_as_canceled(parts: Parts, pauses: int) -> None:
    play_id = await parts.plays.start(REQUEST)
    for _ in range(pauses):
        await asyncio.sleep(0)
    await parts.plays.cancel(play_id, "not wanted")
    assert not parts.plays.playing(play_id)
    (row,) = rows(parts, PlayRow)
    assert (row.state, row.error, row.ended_at is not None) == ("cancelled", "not wanted", True)
    assert {episode.status for episode in rows(parts, EpisodeRow)} <= {"closed"}
    with pytest.raises(Conflict, match="is not running"):
        await parts.plays.cancel(play_id)


async def test_two_cancellations_at_once_end_a_play_once(parts: Parts) -> None:
    play_id = await parts.plays.start(REQUEST)
    await asyncio.gather(*(parts.plays.cancel(play_id, "not wanted") for _ in range(2)), return_exceptions=True)
    (row,) = rows(parts, PlayRow)
    assert (row.state, parts.plays.playing(play_id)) == ("cancelled", False)
