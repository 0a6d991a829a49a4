"""The server's environments behind MCP, message by message over real sockets."""

from __future__ import annotations

import httpx2

from tests.support.environments.guests import (
    SOLUTION,
    Mcp,
    recorded,
)
from tests.support.live import Live


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
