"""The server's environments behind AgentGym's, OpenEnv's and MCP's protocols, message by message over real sockets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import websockets
from websockets.sync.client import ClientConnection, connect

from env_adapters import environment_spec
from server.api.served import guests
from server.environments.settings import EnvironmentSettings
from server.recording.keys import create_key
from tests.support.live import Live, script, serving, settings_for, until
from upturn.wire import EpisodeView, KeyCreate

TEXTCRAFT = environment_spec("textcraft")
TASKS = [*TEXTCRAFT.tasks("train"), *TEXTCRAFT.tasks("test")]
TASK = TASKS.index("1/acacia_planks")
SOLUTION = ("get 1 acacia logs", "craft 4 acacia planks using 1 acacia logs")


def agentgym(live: Live, path: str, body: Any = None, environment: str = "textcraft", **more: Any) -> Any:
    answer = live.http.post(f"/agentgym/{environment}/{path}", json=body, **more)
    assert answer.status_code == 200, answer.text
    return answer.json()


@contextmanager
def openenv(live: Live, environment: str = "textcraft", **more: Any) -> Iterator[ClientConnection]:
    with connect(f"ws{live.url.removeprefix('http')}/openenv/{environment}/ws", **more) as socket:
        yield socket


def ask(socket: ClientConnection, kind: str, **data: Any) -> dict[str, Any]:
    socket.send(json.dumps({"type": kind, **({"data": data} if data or kind == "step" else {})}))
    return dict(json.loads(socket.recv()))


class Mcp:
    """A session of raw JSON-RPC."""

    def __init__(self, live: Live, environment: str = "textcraft", key: str | None = None) -> None:
        self.http, self.path = live.http, f"/mcp/{environment}"
        self.headers = {"authorization": f"Bearer {key}"} if key else {}

    def send(self, method: str, params: Any = None, ident: Any = 1) -> httpx2.Response:
        answer = self.http.post(
            self.path,
            headers=self.headers,
            json={"jsonrpc": "2.0", "id": ident, "method": method, **({} if params is None else {"params": params})},
        )
        if "mcp-session-id" in answer.headers:
            self.headers["mcp-session-id"] = answer.headers["mcp-session-id"]
        return answer

    def call(self, tool: str, **arguments: Any) -> Any:
        answer = self.send("tools/call", {"name": tool, "arguments": arguments}).json()
        return answer.get("result", answer.get("error"))


def recorded(live: Live) -> list[EpisodeView]:
    """Return all episodes, oldest first."""
    import sqlalchemy as sa

    from server.store.tables import EpisodeRow

    with live.parts.database.read() as session:
        ids = session.scalars(sa.select(EpisodeRow.id).order_by(EpisodeRow.opened_at)).all()
    return [live.client.episode(episode_id) for episode_id in ids]


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Live]:
    """A server that requires keys."""
    with serving(settings_for(tmp_path / "data", model=str(script(tmp_path / "s", "Hi.")), keys="required")) as live:
        yield live


def key_with(live: Live, *scopes: Any, **limits: int) -> str:
    request = KeyCreate(name="a key", scopes=list(scopes), **limits)
    return live.parts.writer.submit(lambda session: create_key(session, request)).result().key


# ------------------------------------------------------------------------------------------------------- AgentGym


def test_an_agentgym_client_plays_a_task_and_it_is_recorded(live: Live) -> None:
    made = agentgym(live, "create", {"minecraft_dir": "agentenv_textcraft/", "commands": None, "goal": None})
    assert made == {"id": 0, "observation": "", "reward": 0.0, "score": 0.0, "done": False}
    begun = agentgym(live, "reset", {"id": 0, "data_idx": TASK})
    assert begun["observation"].endswith("Goal: craft acacia planks.")
    assert "get N item" in begun["instructions"] and begun["task_name"] == "1/acacia_planks"
    steps = [agentgym(live, "step", {"id": 0, "action": action}) for action in SOLUTION]
    assert steps == [
        {"observation": "Got 1 acacia logs", "reward": 0.0, "score": 0.0, "done": False},
        {"observation": "Crafted 4 acacia planks", "reward": 1.0, "score": 1.0, "done": True},
    ]
    assert live.http.get("/agentgym/textcraft/observation?id=0").json() == "Crafted 4 acacia planks"
    assert [agentgym(live, "close", {"id": 0}) for _ in range(2)] == [True, False]
    (episode,) = recorded(live)
    assert (episode.environment, episode.task, episode.seed) == ("textcraft", "1/acacia_planks", 0)
    assert (episode.status, episode.reward, episode.trainable) == ("terminated", 1.0, False)
    assert [step.action for step in episode.steps] == [*SOLUTION]
    assert episode.metadata == {"protocol": "agentgym"}


def test_data_idx_counts_through_train_tasks_then_test_tasks_then_the_next_seed(live: Live) -> None:
    ident = agentgym(live, "create")["id"]
    said = [agentgym(live, "reset", {"id": ident, "data_idx": index}) for index in (0, 543, 544, 545)]
    assert [one["task_name"] for one in said] == [TASKS[0], TASKS[-1], TASKS[0], TASKS[1]]
    assert [episode.seed for episode in recorded(live)] == [0, 0, 1, 1]


def test_agentgym_errors_have_status_200_as_on_its_own_servers(live: Live) -> None:
    assert agentgym(live, "step", {"id": 99, "action": "x"}) == {"error": "The id 99 is not valid."}
    assert agentgym(live, "reset", {"id": 99, "data_idx": 0}) == {"error": "The id 99 is not valid."}
    ident = agentgym(live, "create")["id"]
    assert agentgym(live, "step", {"id": ident, "action": "x"}) == {"error": "no task has begun: reset first"}
    agentgym(live, "reset", {"id": ident, "data_idx": TASK})
    assert agentgym(live, "step", {"id": ident, "action": "a\0b"})["observation"].startswith("Not an action.")
    for action in SOLUTION:
        agentgym(live, "step", {"id": ident, "action": action})
    refused = agentgym(live, "step", {"id": ident, "action": "inventory"})
    assert refused == {"error": f"The task with environment {ident} has finished."}
    assert agentgym(live, "step", {"id": ident, "action": "x"}, "gymnasium:Taxi-v4")["error"].endswith("not valid.")
    assert live.http.get(f"/agentgym/textcraft/available_actions?id={ident}").json() == {
        "available_actions": ["get", "craft", "inventory"]
    }
    assert live.http.post("/agentgym/nothing/create").status_code == 404
    for wrong in ({"id": "0"}, {"id": 0, "data_idx": -1}, {}):
        assert live.http.post("/agentgym/textcraft/reset", json=wrong).status_code == 400


def test_an_environment_with_a_colon_and_a_slash_in_its_name_is_served(live: Live) -> None:
    assert live.http.get("/agentgym/gymnasium:FrozenLake-v1/").json() == "This is environment gymnasium:FrozenLake-v1."
    ident = agentgym(live, "create", environment="gymnasium:FrozenLake-v1")["id"]
    begun = agentgym(live, "reset", {"id": ident, "data_idx": 3}, "gymnasium:FrozenLake-v1")
    assert begun["observation"].startswith("[S]FFF")
    assert live.http.get("/openenv/gymnasium:FrozenLake-v1/health").json() == {"status": "healthy"}
    assert live.http.get("/openenv/gymnasium:phys2d/CartPole-v1/metadata").json()["name"].endswith("phys2d/CartPole-v1")


def test_the_next_task_or_leaving_closes_the_last_tasks_episode(live: Live) -> None:
    ident = agentgym(live, "create")["id"]
    agentgym(live, "reset", {"id": ident, "data_idx": 0})
    agentgym(live, "reset", {"id": ident, "data_idx": 1})
    agentgym(live, "close", {"id": ident})
    assert [(e.status, e.reason) for e in recorded(live)] == [
        ("closed", "the next task began"),
        ("closed", "its client closed it"),
    ]
    until(lambda: live.parts.environments.health.open == 0, "an environment is still open")


def test_too_many_guests_evict_the_least_recently_used_one(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guests, "KEPT", 2)
    one, two = (agentgym(live, "create")["id"] for _ in range(2))
    for ident in (two, one):
        agentgym(live, "reset", {"id": ident, "data_idx": TASK})
    three = agentgym(live, "create")["id"]
    assert agentgym(live, "step", {"id": two, "action": "inventory"}) == {"error": f"The id {two} is not valid."}
    assert agentgym(live, "step", {"id": one, "action": "inventory"})["done"] is False
    assert "error" not in agentgym(live, "reset", {"id": three, "data_idx": 0})
    assert [e.status for e in recorded(live)] == ["closed", "open", "open"]


# -------------------------------------------------------------------------------------------------------- OpenEnv


def test_an_openenv_client_plays_a_task_and_it_is_recorded(live: Live) -> None:
    with openenv(live) as socket:
        assert ask(socket, "state") == {"type": "state", "data": {"episode_id": None, "step_count": 0, "task": None}}
        begun = ask(socket, "reset", task="1/acacia_planks", seed=7, episode_id="theirs-1", more="is ignored")
        assert begun["type"] == "observation"
        assert "get N item" in begun["data"]["observation"]["message"]
        assert begun["data"]["observation"]["message"].endswith("Goal: craft acacia planks.")
        one, two = (ask(socket, "step", message=action)["data"] for action in SOLUTION)
        assert (one["observation"], one["reward"], one["done"]) == ({"message": "Got 1 acacia logs"}, 0.0, False)
        assert (two["observation"], two["reward"], two["done"]) == ({"message": "Crafted 4 acacia planks"}, 1.0, True)
        state = ask(socket, "state")["data"]
        assert (state["step_count"], state["task"]) == (2, "1/acacia_planks")
        assert ask(socket, "step", message="inventory")["data"]["code"] == "EXECUTION_ERROR"
    (episode,) = recorded(live)
    assert (episode.id, episode.status, episode.reward, episode.seed) == (state["episode_id"], "terminated", 1.0, 7)
    assert episode.metadata == {"protocol": "openenv", "label": "theirs-1"}


def test_a_seed_alone_selects_a_training_task(live: Live) -> None:
    train = TEXTCRAFT.tasks("train")
    with openenv(live) as socket:
        for seed in (0, 1, len(train) + 1):
            ask(socket, "reset", seed=seed)
        ask(socket, "reset")
    assert [(e.task, e.seed) for e in recorded(live)] == [(train[0], 0), (train[1], 0), (train[1], 1), (train[0], 0)]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("{", "INVALID_JSON"),
        ("[" * 100_000, "INVALID_JSON"),
        (b"\0\1", "INVALID_JSON"),
        ("7", "UNKNOWN_TYPE"),
        ('{"type": "dance"}', "UNKNOWN_TYPE"),
        ('{"type": "\\ud800"}', "UNKNOWN_TYPE"),
        ('{"type": "step"}', "VALIDATION_ERROR"),
        ('{"type": "step", "data": 3}', "VALIDATION_ERROR"),
        ('{"type": "step", "data": {"message": 3}}', "VALIDATION_ERROR"),
        ('{"type": "step", "data": {"text": "x"}}', "VALIDATION_ERROR"),
        ('{"type": "reset", "data": {"seed": -1}}', "VALIDATION_ERROR"),
        ('{"type": "reset", "data": {"episode_id": "\\u0000"}}', "VALIDATION_ERROR"),
        ('{"type": "step", "data": {"message": "x"}}', "EXECUTION_ERROR"),
        ('{"type": "reset", "data": {"task": "1/unicorn"}}', "EXECUTION_ERROR"),
    ],
)
def test_a_malformed_openenv_message_gets_an_error_and_the_session_continues(
    live: Live, message: str | bytes, code: str
) -> None:
    with openenv(live) as socket:
        socket.send(message)
        error = json.loads(socket.recv())
        assert (error["type"], error["data"]["code"]) == ("error", code)
        assert ask(socket, "reset", task="1/acacia_planks")["type"] == "observation"


def test_an_openenv_client_that_disconnects_or_dies_closes_its_episode(live: Live) -> None:
    with openenv(live) as polite, openenv(live) as rude:
        for socket in (polite, rude):
            ask(socket, "reset", seed=1)
        polite.send('{"type": "close"}')
        with pytest.raises(websockets.ConnectionClosedOK):
            polite.recv()
        rude.socket.close()
        until(lambda: live.parts.environments.health.open == 0, "an environment is still open")
    until(lambda: all(e.status == "closed" for e in recorded(live)), "an episode is still open")
    assert [e.reason for e in recorded(live)] == ["its client left"] * 2


def test_a_browser_page_from_another_site_cannot_play(live: Live) -> None:
    with openenv(live, origin="https://elsewhere.example") as socket:
        assert "pages from https://elsewhere.example may not connect" in json.loads(socket.recv())["data"]["message"]
        with pytest.raises(websockets.ConnectionClosedOK):
            socket.recv()
    assert recorded(live) == []
    with openenv(live, origin=live.url) as socket:
        assert ask(socket, "reset", seed=1)["type"] == "observation"


def test_openenv_describes_itself(live: Live) -> None:
    schema = live.http.get("/openenv/textcraft/schema").json()
    assert schema["action"]["required"] == ["message"]
    assert schema["observation"]["properties"]["message"]["type"] == "string"
    assert live.http.get("/openenv/textcraft/state").json()["step_count"] == 0
    assert live.http.get("/openenv/nothing/health").status_code == 404
    with openenv(live, "nothing") as socket:
        assert json.loads(socket.recv())["data"]["code"] == "SESSION_ERROR"


# ------------------------------------------------------------------------------------------------------------ MCP


def test_an_mcp_client_plays_a_task_by_text_and_by_tools_and_it_is_recorded(live: Live) -> None:
    mcp = Mcp(live)
    about = mcp.send("initialize", {"protocolVersion": "2025-06-18", "capabilities": {}}).json()["result"]
    assert about["protocolVersion"] == "2025-06-18" and about["serverInfo"]["name"] == "upturn/textcraft"
    tools = {tool["name"]: tool for tool in mcp.send("tools/list").json()["result"]["tools"]}
    assert list(tools) == ["reset", "act", "get", "craft", "inventory"]
    assert all(tool["inputSchema"]["type"] == "object" for tool in tools.values())
    begun = mcp.call("reset", task="1/acacia_planks")
    assert begun["content"][0]["text"].endswith("Goal: craft acacia planks.")
    assert mcp.call("get", item="acacia logs", count=1)["structuredContent"]["observation"] == "Got 1 acacia logs"
    last = mcp.call("act", action=SOLUTION[1])
    assert last["isError"] is False and last["content"] == [{"type": "text", "text": "Crafted 4 acacia planks"}]
    assert (last["structuredContent"]["reward"], last["structuredContent"]["done"]) == (1.0, True)
    again = mcp.call("act", action="inventory")
    assert again["isError"] is True and "ended" in again["content"][0]["text"]
    assert live.http.delete("/mcp/textcraft", headers=mcp.headers).status_code == 204
    assert mcp.send("tools/list").status_code == 404
    (episode,) = recorded(live)
    assert (episode.status, episode.reward, episode.metadata) == ("terminated", 1.0, {"protocol": "mcp"})


def test_a_client_with_a_newer_or_unknown_mcp_revision_is_offered_one_with_sessions(live: Live) -> None:
    for asked in ("2026-07-28", "1999-01-01", None):
        about = Mcp(live).send("initialize", {"protocolVersion": asked}).json()["result"]
        assert about["protocolVersion"] == "2025-11-25"
    assert Mcp(live).send("server/discover").status_code == 400


def test_a_malformed_mcp_request_gets_a_json_rpc_error(live: Live) -> None:
    def post(content: str, kind: str = "application/json") -> httpx2.Response:
        return live.http.post("/mcp/textcraft", content=content, headers={"content-type": kind})

    assert post("{").json()["error"]["code"] == -32700
    for wrong in (
        "[]",
        "7",
        '{"id": 1}',
        '{"id": 1, "method": 2}',
        '{"id": [], "method": "ping"}',
        '{"id": 1, "method": "ping", "params": []}'.replace("[]", "[1]"),
    ):
        assert (post(wrong).status_code, post(wrong).json()["error"]["code"]) == (400, -32600), wrong
    assert post('{"method": "notifications/initialized"}').status_code == 202
    assert post('{"id": 1, "method": "ping"}', "text/plain").status_code == 400
    assert live.http.get("/mcp/textcraft").status_code == 405
    assert live.http.post("/mcp/nothing", json={"id": 1, "method": "ping"}).status_code == 404
    mcp = Mcp(live)
    assert mcp.send("tools/list").status_code == 400
    mcp.send("initialize", {})
    assert mcp.send("ping", ident="a").json() == {"jsonrpc": "2.0", "id": "a", "result": {}}
    assert mcp.send("resources/list").json()["error"]["code"] == -32601
    for tool, arguments in (("dance", {}), ("act", {}), ("act", {"action": 1}), ("reset", {"seed": -1}), (7, {})):
        answer = mcp.send("tools/call", {"name": tool, "arguments": arguments}).json()
        assert answer["error"]["code"] == -32602, (tool, answer)
    assert mcp.call("act", action="x")["isError"] is True
    assert "1/acacia_planks" in mcp.call("reset", task="1/unicorn")["content"][0]["text"]


def test_an_invalid_tool_call_is_a_step_with_its_reason(live: Live) -> None:
    mcp = Mcp(live)
    mcp.send("initialize", {})
    mcp.call("reset", seed=3)
    result = mcp.call("get", item="stick")
    assert result["structuredContent"]["reward"] == 0.0 and not result["structuredContent"]["done"]
    assert len(recorded(live)[0].steps) == 1


# ------------------------------------------------------------------------------------- keys, limits and failures


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
        mcp = Mcp(live)
        mcp.send("initialize", {})
        assert mcp.call("reset")["code"] == -32000
        for seed in range(1, 4):  # A client with an environment can begin further tasks.
            assert ask(first, "reset", seed=seed)["type"] == "observation"
        assert ask(first, "step", message="north")["type"] == "observation"


def test_the_protocols_of_guests_are_not_in_the_servers_own_schema(live: Live) -> None:
    paths = live.http.get("/openapi.json").json()["paths"]
    assert not [path for path in paths if re.match("/(agentgym|openenv|mcp)", path)]
