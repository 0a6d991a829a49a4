"""Live episodes that are silent: closed after a while, and continued in a linked one when the agent returns."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from server.recording.idle import IdleEpisodes
from tests.support.live import InProcess, in_process, script, settings_for
from upturn.wire import EpisodeOpen

START = [{"role": "user", "content": "Start"}]
SILENCE_S = 60.0


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[InProcess]:
    model = script(tmp_path / "script", "First.", "Second.", "Third.")
    async with in_process(settings_for(tmp_path / "data", model=str(model))) as server:
        yield server


def closer(server: InProcess, since: float = 2e9) -> IdleEpisodes:
    """Return the job, to which everything before `since` (Unix seconds) is long ago."""
    return IdleEpisodes(server.parts.database, server.parts.episodes, SILENCE_S, lambda: since + SILENCE_S)


async def view(server: InProcess, episode: str) -> dict[str, Any]:
    found: dict[str, Any] = (await server.http.get(f"/v1/episodes/{episode}")).json()
    return found


async def test_silent_live_episodes_are_closed_and_others_stay_open(server: InProcess) -> None:
    silent, busy = await server.chat(START), await server.chat(START)
    since = int(busy.turn[5:17], 16) / 1000 + 0.001
    while time.time() < since:
        pass
    await server.chat(START, {"x-episode-id": busy.episode})
    assert await closer(server, since).close_silent() == 1
    assert [(await view(server, each.episode))["status"] for each in (silent, busy)] == ["closed", "open"]
    assert (await view(server, silent.episode))["reason"] == "idle"


async def test_an_agent_that_names_its_idle_episode_goes_on_in_a_linked_one(server: InProcess) -> None:
    opened = EpisodeOpen(horizon=3, metadata={"who": "me"}).model_dump()
    made = (await server.http.post("/v1/episodes", json=opened)).json()
    named = {"authorization": f"Bearer {made['key']}"}
    first = await server.chat(START, named)
    await closer(server).close_silent()
    talk = [*START, first.message, {"role": "user", "content": "I am back."}]
    second = await server.chat(talk, named)
    third = await server.chat([*talk, second.message, {"role": "user", "content": "And again."}], named)
    assert first.episode == made["id"] != second.episode == third.episode
    found = await view(server, second.episode)
    assert (found["continues"], found["horizon"], found["metadata"]) == (made["id"], 3, {"who": "me"})
    assert (await view(server, made["id"]))["status"] == "closed"


async def test_an_episode_that_its_agent_closed_itself_takes_no_more_turns(server: InProcess) -> None:
    made = (await server.http.post("/v1/episodes", json=EpisodeOpen().model_dump())).json()
    await server.http.post(f"/v1/episodes/{made['id']}/close", json={})
    answer = await server.http.post(
        "/v1/chat/completions", json={"model": "policy", "messages": START}, headers={"x-episode-id": made["id"]}
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "episode_ended")
