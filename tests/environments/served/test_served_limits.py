"""Keys, limits and failures of the protocols by which other trainers play the server's environments."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server.environments.settings import EnvironmentSettings
from server.recording.keys import create_key
from tests.support.environments.guests import (
    Mcp,
    agentgym,
    ask,
    openenv,
)
from tests.support.live import Live, script, serving, settings_for
from upturn.wire import KeyCreate


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Live]:
    """A server that requires keys."""
    with serving(settings_for(tmp_path / "data", model=str(script(tmp_path / "s", "Hi.")), keys="required")) as live:
        yield live


def key_with(live: Live, *scopes: Any, **limits: int) -> str:
    request = KeyCreate(name="a key", scopes=list(scopes), **limits)
    return live.parts.writer.submit(lambda session: create_key(session, request)).result().key


def test_every_protocol_requires_a_key_with_the_scope_agent_if_keys_are_required(guarded: Live) -> None:
    admin_only, agent = key_with(guarded, "learner"), key_with(guarded, "agent")
    for key, status in ((None, 401), ("wrong", 401), (admin_only, 403), (agent, 200)):
        headers = {"authorization": f"Bearer {key}"} if key else {}
        assert guarded.http.post("/agentgym/textcraft/create", headers=headers).status_code == status
        assert guarded.http.get("/openenv/textcraft/schema", headers=headers).status_code == status
        assert Mcp(guarded, key=key).send("initialize", {}).status_code == status
        with openenv(guarded, additional_headers=headers) as socket:
            if key == agent:
                assert ask(socket, "state")["type"] == "state"
            else:
                assert json.loads(socket.recv())["data"]["code"] == "SESSION_ERROR"


def test_a_key_cannot_play_in_the_session_of_another_key(guarded: Live) -> None:
    mine, other = key_with(guarded, "agent"), key_with(guarded, "agent")
    ident = agentgym(guarded, "create", headers={"authorization": f"Bearer {mine}"})["id"]
    assert "error" in agentgym(guarded, "reset", {"id": ident}, headers={"authorization": f"Bearer {other}"})
    mcp = Mcp(guarded, key=mine)
    mcp.send("initialize", {})
    mcp.headers["authorization"] = f"Bearer {other}"
    assert mcp.send("tools/list").status_code == 404


def test_a_message_of_a_websocket_counts_as_a_request_of_its_key(guarded: Live) -> None:
    key = key_with(guarded, "agent", requests_per_minute=2)
    with openenv(guarded, additional_headers={"x-api-key": key}) as socket:
        said = [ask(socket, "state") for _ in range(3)]
    assert [one["type"] for one in said] == ["state", "state", "error"]
    assert said[2]["data"]["code"] == "CAPACITY_REACHED"


def test_an_environment_beyond_the_capacity_is_refused_in_each_protocols_form(tmp_path: Path) -> None:
    settings = settings_for(
        tmp_path / "data", model=str(script(tmp_path / "s", "Hi.")), environments=EnvironmentSettings(capacity=1)
    )
    with serving(settings) as live, openenv(live, "gymnasium:Taxi-v4") as first, openenv(live) as second:
        ask(first, "reset", seed=0)
        assert ask(second, "reset", seed=0)["data"]["code"] == "CAPACITY_REACHED"
        agentgym(live, "create")
        full = live.http.post("/agentgym/textcraft/reset", json={"id": 0})
        assert full.status_code == 429 and int(full.headers["retry-after"]) > 0
        assert "environments.capacity" in full.text and "batch x n" in full.text
        assert "batch x n" in agentgym(live, "create")["warning"]
        for ident in (1, 0):
            agentgym(live, "close", {"id": ident})
        assert "warning" not in agentgym(live, "create")
        mcp = Mcp(live)
        mcp.send("initialize", {})
        assert mcp.call("reset")["code"] == -32000
        for seed in range(1, 4):  # A client with an environment can begin further tasks.
            assert ask(first, "reset", seed=seed)["type"] == "observation"
        assert ask(first, "step", message="north")["type"] == "observation"


def test_the_protocols_of_guests_are_not_in_the_servers_own_schema(live: Live) -> None:
    paths = live.http.get("/openapi.json").json()["paths"]
    assert not [path for path in paths if re.match("/(agentgym|openenv|mcp)", path)]
