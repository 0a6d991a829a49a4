"""Who may call which route: every route times every kind of caller, on another agent's things too.

A new route fails here until `ROUTES` says who may call it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import websockets.sync.client as websockets
from websockets.exceptions import ConnectionClosed

from server.api.access import failures
from server.app import create_app
from tests.support.keys import client, new_key
from tests.support.live import Live, script, serving, settings_for
from upturn.client import Client
from upturn.wire import EpisodeOpen, RewardRequest

SECRET = "the secret of agent A"
EVIL = "https://evil.example"
DIALECT_PATHS = (
    *(f"/v1/{path}" for path in ("chat/completions", "completions", "messages", "messages/count_tokens", "responses")),
    *("/tokenize", "/detokenize"),
)
ROUTES = {
    "open": """
        GET / | GET /openapi.json | GET /docs | GET /docs/start.js | GET /docs/{name} | GET /redoc | GET /healthz
        GET /readyz | GET /health""",
    "page": """
        GET /ui | GET /ui/ | GET /ui/{place:path} | GET /ui/static/{version}/{name:path} | GET /ui/login
        GET /ui/live/home | GET /ui/learning | GET /ui/learning/data | GET /ui/versions | GET /ui/versions/{version}
        GET /ui/decisions/{number} | GET /ui/runs | GET /ui/runs/new | GET /ui/runs/new/toml | GET /ui/runs/{run_id}
        GET /ui/schedule | GET /ui/schedule/rehearsal | GET /ui/episodes | GET /ui/episodes/{episode_id}
        GET /ui/episodes/{episode_id}/json | GET /ui/untrainable | GET /ui/compare | GET /ui/by-hand
        GET /ui/by-hand/{episode_id} | GET /ui/leaderboard""",
    "form": """
        POST /ui/login | POST /ui/logout | POST /ui/versions/{version}/promote | POST /ui/versions/{version}/pin
        POST /ui/rollback | POST /ui/runs | POST /ui/runs/{run_id}/{change} | POST /ui/schedule/rehearse
        POST /ui/schedule/triggers | POST /ui/schedule/triggers/remove | POST /ui/episodes/{episode_id}/feedback
        POST /ui/episodes/{episode_id}/close | POST /ui/episodes/{episode_id}/erase | POST /ui/by-hand
        POST /ui/by-hand/{episode_id} | POST /ui/by-hand/{episode_id}/end | POST /ui/leaderboard/{entry_id}/delete""",
    "bearer": "GET /v1/keys/me",
    "agent": """
        GET /v1/environments | GET /v1/environments/{name:path}/tasks | POST /v1/episodes | GET /v1/episodes
        GET /v1/models | GET /v1/models/{model:path} | POST /retrieve | POST /agentgym/{environment:path}/create
        POST /agentgym/{environment:path}/reset | POST /agentgym/{environment:path}/step
        GET /agentgym/{environment:path}/observation | GET /agentgym/{environment:path}/available_actions
        POST /agentgym/{environment:path}/close | GET /agentgym/{environment:path}/
        GET /openenv/{environment:path}/health | GET /openenv/{environment:path}/metadata
        GET /openenv/{environment:path}/schema | GET /openenv/{environment:path}/state
        POST /mcp/{environment:path} | DELETE /mcp/{environment:path}""",
    "owner": """
        GET /v1/episodes/{episode_id} | GET /v1/episodes/{episode_id}/trained | POST /v1/episodes/{episode_id}/close
        POST /v1/episodes/{episode_id}/steps | POST /v1/episodes/{episode_id}/demonstrations
        GET /v1/responses/{response_id}
        GET /episodes/{episode_id}/v1/responses/{response_id} | GET /v1/responses/{response_id}/input_items
        GET /episodes/{episode_id}/v1/responses/{response_id}/input_items | DELETE /v1/responses/{response_id}
        DELETE /episodes/{episode_id}/v1/responses/{response_id}"""
    + "".join(f" | POST {path} | POST /episodes/{{episode_id}}{path}" for path in DIALECT_PATHS),
    "rewards": "POST /v1/rewards",
    "rewarder": "POST /v1/episodes/{episode_id}/rewards | POST /v1/episodes/{episode_id}/feedback",
    "learner": """
        GET /v1/schedule | GET /v1/stats | GET /v1/status | GET /v1/runs | GET /v1/runs/{run_id}
        GET /v1/runs/{run_id}/steps | POST /v1/runs/claim | POST /v1/runs/release
        POST /v1/runs/{run_id}/heartbeat | POST /v1/runs/{run_id}/end | POST /v1/batches
        POST /v1/batches/{batch_id}/ack | POST /v1/policies | GET /v1/policies | GET /v1/policies/{version}
        GET /v1/policies/{version}/lineage | GET /v1/campaigns | GET /v1/campaigns/{name}""",
    "admin": """
        POST /v1/runs | POST /v1/runs/{run_id}/cancel | POST /v1/runs/{run_id}/pause | POST /v1/runs/{run_id}/resume
        GET /v1/schedule/triggers | POST /v1/schedule/triggers | DELETE /v1/schedule/triggers/{name}
        GET /v1/promotions | GET /v1/promotions/{number} | GET /v1/promotions/{number}/tasks | GET /v1/shadow
        POST /v1/policies/rollback
        POST /v1/policies/{version}/promote | POST /v1/policies/{version}/pin | DELETE /v1/policies/{version}/pin
        DELETE /v1/episodes/{episode_id} | POST /v1/plays | GET /v1/plays/{play_id} | POST /v1/plays/{play_id}/cancel
        POST /v1/leaderboard | GET /v1/leaderboard | GET /v1/leaderboard/{entry_id} | DELETE /v1/leaderboard/{entry_id}
        POST /v1/leaderboard/{entry_id}/end
        GET /v1/plays/{play_id}/events | POST /v1/keys | GET /v1/keys | DELETE /v1/keys/{key_id}
        DELETE /v1/keys/{key_id}/episodes | GET /v1/keys/{key_id}/trained | GET /v1/reward-sources
        PUT /v1/reward-sources/{name:path} | DELETE /v1/reward-sources/{name:path} | GET /v1/scorers
        GET /v1/notifications | POST /v1/notifications/test | POST /v1/rehearsals
        GET /v1/rehearsals/{rehearsal_id} | POST /v1/rehearsals/{rehearsal_id}/cancel""",
    "metrics": "GET /metrics",
    "socket": "WS /openenv/{environment:path}/ws",
}
"""Routes by who may call them: anyone, an agent, the owner of the episode, and so on.

The dashboard's pages and forms take no key from a header: `tests/e2e/dashboard/` has who may do what there.
"""
DECLARED = {
    route.strip(): who for who, routes in ROUTES.items() for route in re.split(r"[|\n]", routes) if route.strip()
}
OUTSIDERS = ("no key", "wrong key", "revoked key", "key of a revoked opener's episode", "foreign page")
MAY = {
    "bearer": {
        "agent A",
        "agent B",
        "learner",
        "Prometheus",
        "reward only",
        "admin",
        "A's episode",
        "A's other episode",
        "B's episode",
    },
    "agent": {"agent A", "agent B", "admin"},
    "owner": {"agent A", "A's episode", "admin"},
    "rewarder": {"agent A", "reward only", "admin"},
    "rewards": {"agent A", "agent B", "reward only", "admin"},
    "learner": {"learner", "admin"},
    "metrics": {"Prometheus", "admin"},
    "admin": {"admin"},
}
LOOKS_MISSING = {
    "owner": {"agent B", "A's other episode", "B's episode"},
    "rewarder": {"agent B", "A's other episode", "B's episode"},
}
"""Callers for whom the episode does not exist. All others lack a scope."""


def served() -> list[str]:
    """Return every route of the application."""
    found = []
    for route in create_app(settings_for(Path("unused"))).routes:
        methods = sorted(set(getattr(route, "methods", None) or ["WS"]) - {"HEAD"})
        found += [f"{method} {route.path}" for method in methods]  # type: ignore[attr-defined]
    return found


@dataclass
class World:
    """A server with the things of two agents."""

    live: Live
    keys: dict[str, str]
    episode: str
    """Of agent A, with one turn that holds `SECRET`."""
    response: str
    """Id of that turn as a response."""
    owner: Client
    """Agent A."""
    admin: Client


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home: Path = tmp_path_factory.mktemp("callers")
    model = script(home / "script", f"I keep {SECRET}.")
    with (
        pytest.MonkeyPatch.context() as patch,
        serving(settings_for(home / "data", model=str(model), keys="required")) as live,
    ):
        patch.setattr(failures, "PER_MINUTE", 100_000)  # Every route gets wrong keys from this address.
        a, b, gone = (new_key(live, "agent", "reward") for _ in range(3))
        opened, other = (client(live, a.key).open_episode(EpisodeOpen()) for _ in range(2))
        of_b, of_gone = (client(live, key).open_episode(EpisodeOpen()) for key in (b.key, gone.key))
        admin = new_key(live, "admin").key
        for revoked in (gone, lost := new_key(live, "admin")):
            client(live, admin).revoke_key(revoked.id)
        answer = live.openai(key=opened.key).responses.create(model="policy", input=f"Tell {SECRET}")
        keys = {
            "no key": "",
            "wrong key": "up-wrong",
            "revoked key": lost.key,
            "key of a revoked opener's episode": of_gone.key,
            "foreign page": "",
            "learner": new_key(live, "learner").key,
            "Prometheus": new_key(live, "metrics").key,
            "reward only": new_key(live, "reward").key,
            "agent B": b.key,
            "B's episode": of_b.key,
            "A's other episode": other.key,
            "A's episode": opened.key,
            "agent A": a.key,
            "admin": admin,
        }
        yield World(live, keys, opened.id, answer.id, client(live, a.key), client(live, admin))


def ask(world: World, route: str, caller: str, episode: str) -> Any:
    """Call a route about an episode of agent A, whether the URL or a header names it."""
    method, path = route.split()
    path = path.replace("{version}", "7").replace("{number}", "7").replace("{response_id}", world.response)
    path = path.replace("/docs/{name}", "/docs/swagger-ui.css")
    path = re.sub(r"{\w+(:path)?}", "none", path.replace("{episode_id}", episode))
    headers = {"x-episode-id": episode}
    if world.keys[caller]:
        headers["authorization"] = f"Bearer {world.keys[caller]}"
    if caller == "foreign page":
        headers |= {"origin": EVIL, "sec-fetch-site": "cross-site", "host": "evil.example"}
    body = {"json": {}} if method in ("POST", "PUT") else {}
    return world.live.http.request(method, path, headers=headers, **body)


def expected(who: str, caller: str) -> tuple[int, str] | None:
    """Return the refusal of a caller, or None if it may call the routes of this kind."""
    if who in ("open", "page") or caller in MAY[who]:
        return None
    if caller in OUTSIDERS:
        return 401, "invalid_api_key"
    return (404, "episode_not_found") if caller in LOOKS_MISSING.get(who, ()) else (403, "insufficient_scope")


def code_of(answer: Any) -> str:
    """Return an error's code, in OpenAI's form or Anthropic's."""
    try:
        error = answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        return ""
    return str(error["code"]) if error else ""


def state(world: World) -> str:
    """Return everything that callers could have changed of agent A's episode, as an admin sees it."""
    return world.admin.episode(world.episode).model_dump_json()


def test_every_route_declares_who_may_call_it() -> None:
    assert sorted(served()) == sorted(DECLARED)


@pytest.mark.parametrize("route", [route for route, who in DECLARED.items() if who != "socket"])
def test_a_route_answers_its_callers_and_no_others(world: World, route: str) -> None:
    who = DECLARED[route]
    if who == "form":
        for caller in world.keys:
            answer = ask(world, route, caller, world.episode)
            assert answer.status_code in (303, 403) and SECRET not in answer.text, caller
        return
    about_an_episode = "episode_id" in route
    before = state(world) if about_an_episode else ""
    for caller in world.keys:
        refusal = expected(who, caller)
        if refusal is None:
            continue
        answer = ask(world, route, caller, world.episode)
        assert (answer.status_code, code_of(answer)) == refusal, caller
        assert SECRET not in answer.text and "access-control-allow-origin" not in answer.headers, caller
    assert not about_an_episode or state(world) == before, "a refused call changed the episode"
    for caller in world.keys:
        if expected(who, caller) is None:
            own = caller == "A's episode" or not about_an_episode
            episode = world.episode if own else world.owner.open_episode(EpisodeOpen()).id
            if route.endswith("/close") and caller == "A's episode":
                continue  # It would end the episode of all other cases.
            answer = ask(world, route, caller, episode)
            assert answer.status_code < 500 and answer.status_code not in (401, 403), (caller, answer.text)
            assert code_of(answer) != "episode_not_found", caller


def test_no_route_tells_a_foreign_page_that_it_may_call(world: World) -> None:
    for route in DECLARED:
        path = re.sub(r"{\w+(:path)?}", "none", route.split()[1])
        asked = {"origin": EVIL, "access-control-request-method": route.split()[0]}
        answer = world.live.http.options(path, headers=asked)
        assert (answer.status_code, "access-control-allow-origin" in answer.headers) == (403, False), route


@pytest.mark.parametrize("route", [route for route, who in DECLARED.items() if who == "socket"])
def test_a_websocket_answers_agents_only(world: World, route: str) -> None:
    url = world.live.url.replace("http", "ws", 1) + route.split()[1].replace("{environment:path}", "textcraft")
    for caller, key in world.keys.items():
        headers = {"authorization": f"Bearer {key}"} if key else {}
        if caller == "foreign page":
            with pytest.raises(Exception, match="403"), websockets.connect(url, origin=EVIL):  # type: ignore[arg-type]
                pass
            continue
        with websockets.connect(url, additional_headers=headers) as socket:
            with suppress(ConnectionClosed):  # The server may already have refused the caller.
                socket.send('{"type": "state"}')
            reply = json.loads(socket.recv(timeout=60))
        assert (reply["type"] == "state") == (caller in MAY["agent"]), caller


def test_agents_own_lists_and_ids_hold_nothing_of_each_other(world: World) -> None:
    live, a, b = world.live, world.keys["agent A"], world.keys["agent B"]
    of_a, of_b = ({"authorization": f"Bearer {key}"} for key in (a, b))
    number = live.http.post("/agentgym/textcraft/create", headers=of_a).json()["id"]
    live.http.post("/agentgym/textcraft/reset", headers=of_a, json={"id": number, "data_idx": 0})
    for what, body in (("reset", {"id": number}), ("step", {"id": number, "action": "inventory"})):
        assert "error" in live.http.post(f"/agentgym/textcraft/{what}", headers=of_b, json=body).json()
    assert live.http.post("/agentgym/textcraft/close", headers=of_b, json={"id": number}).json() is False
    assert live.http.post("/agentgym/textcraft/step", headers=of_a, json={"id": number, "action": "inventory"}).json()[
        "observation"
    ]
    begin = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}
    session = live.http.post("/mcp/textcraft", headers=of_a, json=begin).headers["mcp-session-id"]
    stolen = {**of_b, "mcp-session-id": session}
    listing = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
    assert live.http.post("/mcp/textcraft", headers=stolen, json=listing).status_code == 404
    assert live.http.delete("/mcp/textcraft", headers=stolen).status_code == 404
    assert (
        live.http.post("/mcp/textcraft", headers={**of_a, "mcp-session-id": session}, json=listing).status_code == 200
    )
    continued = {"model": "policy", "input": "More", "previous_response_id": world.response}
    assert live.http.post("/v1/responses", headers=of_b, json=continued).status_code == 404
    same = {"model": "policy", "input": f"Tell {SECRET}"}
    found = live.http.post("/v1/responses", headers={**of_b, "x-stainless-retry-count": "1"}, json=same)
    assert found.status_code == 200 and found.headers["x-episode-id"] != world.episode


def test_a_key_loses_its_rights_at_once_and_an_open_episode_its_rewards(world: World) -> None:
    live, made = world.live, new_key(world.live, "agent", "reward")
    agent = client(live, made.key)
    opened = agent.open_episode(EpisodeOpen())
    agent.reward(opened.id, RewardRequest(value=1.0))
    client(live, world.keys["admin"]).revoke_key(made.id)
    for key in (made.key, opened.key):
        refused = live.http.post(
            f"/v1/episodes/{opened.id}/rewards", json={"value": 1.0}, headers={"authorization": f"Bearer {key}"}
        )
        assert (refused.status_code, code_of(refused)) == (401, "invalid_api_key")
