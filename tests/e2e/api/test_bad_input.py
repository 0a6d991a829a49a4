"""Bad input: the right status, OpenAI's error body, and nothing lost or half-written."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic_core import from_json

from env_adapters import environment_spec
from server.api.access import json_route
from tests.support.live import Live, script, serving, settings_for
from upturn.wire import EpisodeOpen

ASK = [{"role": "user", "content": "Hi"}]
CHAT = "/v1/chat/completions"
GOOD = {"model": "policy", "messages": ASK}
TOOL = {"type": "function", "function": {"name": "f"}}


def rows(live: Live) -> dict[str, int]:
    """Return the number of rows in each table that a request can write."""
    with sqlite3.connect(live.parts.settings.data_dir / "upturn.db") as connection:
        counts = {
            name: connection.execute(f"select count(*) from {name}").fetchone()[0]
            for name in ("episode", "turn", "node", "step", "reward", "play", "run", "batch")
        }
    connection.close()
    return counts


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """One server for all requests that it refuses: none of them leaves anything behind."""
    home = tmp_path_factory.mktemp("refusing")
    model = script(home / "script", "Hello there.")
    with serving(settings_for(home / "data", model=str(model))) as live:
        yield live


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        (CHAT, {**GOOD, "model": "gpt-9"}, 404, "model_not_found"),
        (CHAT, {**GOOD, "model": "policy@99"}, 404, "model_not_found"),
        (CHAT, {**GOOD, "model": "policy@"}, 404, "model_not_found"),
        (CHAT, {"messages": ASK}, 400, "invalid_request"),
        (CHAT, {**GOOD, "messages": []}, 400, "invalid_request"),
        (CHAT, {**GOOD, "messages": "Hi"}, 400, "invalid_request"),
        (CHAT, {**GOOD, "messages": [{"content": "Hi"}]}, 400, "invalid_request"),
        (CHAT, {**GOOD, "messages": [{"role": "user", "content": 7}]}, 400, "invalid_request"),
        (CHAT, {**GOOD, "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "invalid_request"),
        (CHAT, {**GOOD, "messages": [{"role": "user", "content": [{"type": ["text"]}]}]}, 400, "invalid_request"),
        (CHAT, {**GOOD, "messages": [{"role": "user", "content": [{"type": {}}]}]}, 400, "invalid_request"),
        (CHAT, {**GOOD, "stream": "yes"}, 400, "invalid_request"),
        (CHAT, {**GOOD, "temperature": -1}, 400, "invalid_request"),
        (CHAT, {**GOOD, "max_tokens": 0}, 400, "invalid_request"),
        (CHAT, {**GOOD, "n": 0}, 400, "invalid_request"),
        (CHAT, {**GOOD, "tools": [{"type": "function"}]}, 400, "invalid_request"),
        (CHAT, {**GOOD, "tools": [TOOL, TOOL]}, 400, "invalid_request"),
        (CHAT, {**GOOD, "tool_choice": "required"}, 400, "invalid_request"),
        (
            CHAT,
            {**GOOD, "tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
            400,
            "invalid_request",
        ),
        (CHAT, {**GOOD, "tools": [TOOL], "tool_choice": "required"}, 400, "unsupported_parameter"),
        (CHAT, {**GOOD, "response_format": {"type": "json_schema"}}, 400, "invalid_request"),
        (CHAT, {**GOOD, "response_format": {"type": "json_object"}}, 400, "unsupported_parameter"),
        (CHAT, {**GOOD, "messages": [{"role": "assistant", "tool_calls": [{"id": "x"}]}]}, 400, "invalid_request"),
        (CHAT, {**GOOD, "functions": [{}]}, 400, "invalid_request"),
        (CHAT, {**GOOD, "max_tokns": 5}, 400, "unknown_parameter"),
        (CHAT, {**GOOD, "function_call": "auto"}, 400, "invalid_request"),
        (CHAT, {**GOOD, "continue_final_message": True}, 400, "invalid_request"),
        (CHAT, {**GOOD, "add_generation_prompt": False}, 400, "invalid_request"),
        (CHAT, {**GOOD, "messages": [{"role": "user", "content": "x" * 5000}]}, 400, "context_length_exceeded"),
        ("/episodes/ep_none/v1/chat/completions", GOOD, 404, "episode_not_found"),
        ("/v1/episodes", {"environment": "nowhere", "task": "x"}, 404, "environment_not_found"),
        ("/v1/episodes", {"environment": "textcraft", "task": "9/nothing"}, 404, "task_not_found"),
        ("/v1/episodes", {"environment": "textcraft"}, 400, "invalid_request"),
        ("/v1/episodes", {"horizont": 3}, 400, "invalid_request"),
        ("/v1/episodes", {"horizon": 0}, 400, "invalid_request"),
        ("/v1/episodes", {"metadata": {"a": ["\ud800"]}}, 400, "invalid_request"),
        (CHAT, {**GOOD, "messages": [{"role": "user", "content": "\ud800"}]}, 400, "invalid_request"),
        ("/v1/episodes", {"policy": "other"}, 404, "model_not_found"),
        ("/v1/episodes/ep_none/steps", {"action": "x"}, 404, "episode_not_found"),
        ("/v1/episodes/ep_none/rewards", {"value": 1.0}, 404, "episode_not_found"),
        ("/v1/episodes/ep_none/close", {}, 404, "episode_not_found"),
        ("/v1/plays", {"environment": "textcraft", "tasks": ["9/x"], "horizon": 3}, 404, "task_not_found"),
        ("/v1/plays", {"environment": "none", "tasks": ["9/x"], "horizon": 3}, 404, "environment_not_found"),
        ("/v1/plays", {"environment": "textcraft", "tasks": [], "horizon": 3}, 400, "invalid_request"),
        ("/v1/runs", {}, 400, "invalid_request"),
        ("/v1/runs", {"config": {"steps": 1, "kind": "adapter"}}, 400, "wrong_kind"),
        ("/v1/runs", {"config": {"steps": 1, "play": {"environment": "\ud83d"}}}, 400, "invalid_request"),
        ("/v1/runs", {"config": {"steps": "many"}}, 400, "invalid_request"),
        ("/v1/batches", {"run_id": "run_none", "learner": "a", "step": 0, "horizon": 1}, 404, "run_not_found"),
        ("/v1/batches/batch_none/ack", {"learner": "a", "state": "trained"}, 404, "batch_not_found"),
        ("/v1/policies/7/promote", {}, 404, "version_not_found"),
        ("/v1/policies/rollback", {}, 409, "no_earlier_champion"),
        ("/v1/nothing", {}, 404, "not_found"),
    ],
)
def test_an_invalid_request_gets_its_status_and_leaves_no_rows(
    refusing: Live, path: str, body: dict[str, Any], status: int, code: str
) -> None:
    answer = refusing.http.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["code"] == code
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    assert not any(rows(refusing).values())


def test_malformed_json_and_large_bodies_are_refused(live: Live) -> None:
    broken = live.http.post(CHAT, content=b'{"model": ', headers={"content-type": "application/json"})
    assert broken.json()["error"]["message"] == "the body is not valid JSON" and broken.json()["error"]["param"] is None
    assert broken.status_code == 400 and "JSON" in broken.json()["error"]["message"]
    large = live.http.post(CHAT, content=b"x" * (17 * 2**20), headers={"content-type": "application/json"})
    assert large.status_code == 413 and large.json()["error"]["code"] == "request_too_large"
    unannounced = live.http.post(
        CHAT, content=(b"x" * 2**20 for _ in range(17)), headers={"content-type": "application/json"}
    )
    assert unannounced.status_code == 413 and unannounced.json()["error"]["code"] == "request_too_large"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"model": "\xff"}', "the request body must be JSON in UTF-8"),
        (b'{"model": "' + b"x" * 50_000 + b'\xff"}', "the request body must be JSON in UTF-8"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "the body contains a number with too many digits"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_with_the_reason(refusing: Live, body: bytes, said: str) -> None:
    answer = refusing.http.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, said)


@pytest.mark.parametrize("kind", ["application/json", "application/vnd.agent+json; charset=utf-8"])
def test_a_large_body_is_read_in_a_thread_whatever_its_kind_of_json(
    refusing: Live, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[str] = set()

    def read(body: bytes) -> Any:
        threads.add(threading.current_thread().name)
        return from_json(body)

    monkeypatch.setattr(json_route, "from_json", read)
    body = json.dumps({**GOOD, "messages": [{"role": "user", "content": "x" * 50_000}]})
    assert refusing.http.post(CHAT, content=body, headers={"content-type": kind}).status_code == 400
    assert {name.rpartition("_")[0] for name in threads} == {"upturn-heavy"}


def test_the_openai_client_raises_its_own_exceptions(live: Live) -> None:
    api = live.openai()
    with pytest.raises(openai.NotFoundError):
        api.chat.completions.create(model="gpt-9", messages=ASK)
    with pytest.raises(openai.BadRequestError) as refused:
        api.chat.completions.create(model="policy", messages=[{"role": "user", "content": "x" * 5000}], stream=True)
    assert refused.value.code == "context_length_exceeded"


def test_an_ended_episode_accepts_no_turns_steps_or_second_end(live: Live) -> None:
    opened = live.client.open_episode(EpisodeOpen())
    api = live.openai(key=opened.key)
    api.chat.completions.create(model="policy", messages=ASK)
    assert live.client.close_episode(opened.id).status == "closed"
    with pytest.raises(openai.ConflictError) as refused:
        api.chat.completions.create(model="policy", messages=ASK)
    assert refused.value.code == "episode_ended"
    for path in ("steps", "close"):
        answer = live.http.post(f"/v1/episodes/{opened.id}/{path}", json={"action": "x"} if path == "steps" else {})
        assert answer.status_code == 409 and answer.json()["error"]["code"] == "episode_ended"
    assert len(live.client.episode(opened.id).turns) == 1


def test_the_horizon_truncates_an_episode_and_refuses_further_steps(live: Live) -> None:
    task = next(t for t in environment_spec("textcraft").tasks("test") if t.startswith("1/"))
    opened = live.client.open_episode(EpisodeOpen(environment="textcraft", task=task, horizon=2))
    assert opened.messages[-1].role == "user"
    first = live.client.step(opened.id, "inventory")
    assert (first.turns_left, first.truncated, first.success) == (1, False, None)
    second = live.client.step(opened.id, "inventory")
    assert (second.turns_left, second.truncated, second.terminated, second.success) == (0, True, False, False)
    view = live.client.episode(opened.id)
    assert (view.status, view.reward, len(view.steps)) == ("truncated", 0.0, 2)
    assert live.http.post(f"/v1/episodes/{opened.id}/steps", json={"action": "x"}).status_code == 409


def test_a_live_agent_is_refused_turns_beyond_the_horizon(live: Live) -> None:
    opened = live.client.open_episode(EpisodeOpen(horizon=1))
    api = live.openai(key=opened.key)
    api.chat.completions.create(model="policy", messages=ASK)
    with pytest.raises(openai.BadRequestError) as refused:
        api.chat.completions.create(model="policy", messages=[*ASK, *ASK])
    assert refused.value.code == "horizon_reached"
    assert live.client.episode(opened.id).status == "truncated"


def test_a_repeated_reward_counts_once_and_a_different_one_is_a_conflict(live: Live) -> None:
    opened = live.client.open_episode(EpisodeOpen())
    path = f"/v1/episodes/{opened.id}/rewards"
    first = live.http.post(path, json={"value": 1.0, "key": "k"})
    assert live.http.post(path, json={"value": 1.0, "key": "k"}).json() == first.json()
    assert live.http.post(path, json={"value": 0.5, "key": "k"}).json()["error"]["code"] == "idempotency_conflict"
    assert live.http.post(path, json={"value": 0.5, "turn": 3}).status_code == 404
    assert live.client.episode(opened.id).reward == 1.0


def test_an_episode_without_rewards_has_no_reward(live: Live) -> None:
    assert live.client.episode(live.client.open_episode(EpisodeOpen()).id).reward is None


def test_an_erased_episode_is_gone(live: Live) -> None:
    opened = live.client.open_episode(EpisodeOpen())
    live.openai(key=opened.key).chat.completions.create(model="policy", messages=ASK)
    assert live.http.delete(f"/v1/episodes/{opened.id}").status_code == 204
    assert live.http.get(f"/v1/episodes/{opened.id}").status_code == 404
    assert live.http.delete(f"/v1/episodes/{opened.id}").status_code == 404
    assert not any(rows(live).values())
