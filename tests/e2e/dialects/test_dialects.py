"""Promises that every dialect keeps: retries, idempotency keys, disconnects, paths under an episode."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.dialects import ASK, BODIES, COMPLETIONS, MESSAGES, PARIS, RESPONSES, SCHEMA, claude, extends
from tests.support.live import Live, script, serving, settings_for
from upturn.wire import EpisodeOpen


@pytest.mark.parametrize("path", [MESSAGES, RESPONSES])
def test_parallel_calls_can_be_switched_off(talkative: Live, path: str) -> None:
    if path == MESSAGES:
        answer = claude(talkative).messages.create(
            **BODIES[path],
            tools=[{"name": "weather", "input_schema": SCHEMA}],
            tool_choice={"type": "auto", "disable_parallel_tool_use": True},
        )
        assert [block.type for block in answer.content] == ["text", "tool_use"]
    else:
        response = talkative.openai().responses.create(
            **BODIES[path],
            parallel_tool_calls=False,
            tools=[{"type": "function", "name": "weather", "parameters": SCHEMA, "strict": False}],
        )
        assert [item.type for item in response.output] == ["message", "function_call"]


@pytest.mark.parametrize("path", [MESSAGES, RESPONSES])
def test_text_around_a_call_streams_in_order_and_is_recognized_when_sent_back(tmp_path: Path, path: str) -> None:
    model = script(tmp_path / "script", f"I look.\n{PARIS}\nAnd wait.", "Rain.")
    with serving(settings_for(tmp_path / "data", model=str(model))) as live:
        opened = live.client.open_episode(EpisodeOpen())
        if path == MESSAGES:
            asked: dict[str, Any] = {
                "model": "policy",
                "max_tokens": 500,
                "tools": [{"name": "weather", "input_schema": SCHEMA}],
            }
            api = claude(live, opened.key).messages
            with api.stream(messages=ASK, **asked) as stream:
                parts = stream.get_final_message().content
            talk = [
                *ASK,
                {"role": "assistant", "content": [p.model_dump(exclude_none=True) for p in parts]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": parts[1].id, "content": "rain"}]},
            ]
            assert api.create(messages=talk, **asked).content[0].text == "Rain."
        else:
            asked = {
                "model": "policy",
                "tools": [{"type": "function", "name": "weather", "parameters": SCHEMA, "strict": False}],
            }
            responses = live.openai(key=opened.key).responses
            with responses.stream(input=ASK, **asked) as events:
                parts = events.get_final_response().output
            said = [part.model_dump(mode="json", exclude={"parsed_arguments"}) for part in parts]
            result = {"type": "function_call_output", "call_id": parts[1].call_id, "output": "rain"}
            assert responses.create(input=[*ASK, *said, result], **asked).output_text == "Rain."
        assert [part.type for part in parts] in (["text", "tool_use", "text"], ["message", "function_call", "message"])
        extends(live, opened.id)


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("stream", [False, True])
def test_every_dialect_answers_a_retry_from_the_record(live: Live, path: str, stream: bool) -> None:
    body = {**BODIES[path], "stream": stream}
    first = live.http.post(path, json=body)
    again = live.http.post(path, json=body, headers={"x-stainless-retry-count": "1"})
    assert again.headers["x-turn-id"] == first.headers["x-turn-id"]
    if not stream:
        volatile = {"created", "created_at"}
        assert {k: v for k, v in first.json().items() if k not in volatile} == {
            k: v for k, v in again.json().items() if k not in volatile
        }
    assert len(live.client.episode(first.headers["x-episode-id"]).turns) == 1


@pytest.mark.parametrize("path", BODIES)
def test_an_idempotency_key_stands_for_one_request_in_every_dialect(live: Live, path: str) -> None:
    headers = {"idempotency-key": "once"}
    body = {**BODIES[path], **({"prompt": ["Once", "Twice"]} if path == COMPLETIONS else {})}
    first = live.http.post(path, json=body, headers=headers)
    assert live.http.post(path, json=body, headers=headers).headers["x-turn-id"] == first.headers["x-turn-id"]
    other = live.http.post(path, json={**body, "temperature": 0.5}, headers=headers)
    assert other.status_code == 409


@pytest.mark.parametrize("path", BODIES)
def test_a_disconnected_client_leaves_a_marked_turn_in_every_dialect(slow: Live, path: str) -> None:
    with slow.http.stream("POST", path, json={**BODIES[path], "stream": True}) as answer:
        episode_id = answer.headers["x-episode-id"]
        lines = answer.iter_lines()
        for _ in range(30):
            next(lines)
    deadline = time.monotonic() + 60
    while not (turns := slow.client.episode(episode_id).turns) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert turns[0].untrainable_reason == "disconnected"
    assert 0 < turns[0].completion_tokens < 500


@pytest.mark.parametrize("path", BODIES)
def test_every_dialect_also_serves_under_an_episode(live: Live, path: str) -> None:
    opened = live.client.open_episode(EpisodeOpen())
    answer = live.http.post(f"/episodes/{opened.id}{path}", json=BODIES[path])
    assert answer.headers["x-episode-id"] == opened.id
    assert len(live.client.episode(opened.id).turns) == 1


@pytest.mark.parametrize("path", BODIES)
def test_requests_at_once_with_one_idempotency_key_are_one_request(live: Live, path: str) -> None:
    body = BODIES[path]
    with ThreadPoolExecutor(8) as pool:
        copies = list(
            pool.map(
                lambda _: live.http.post(path, json=body, headers={"idempotency-key": f"at once {path}"}), range(8)
            )
        )
    assert {copy.status_code for copy in copies} == {200}
    assert len({copy.headers["x-turn-id"] for copy in copies}) == 1


@pytest.mark.parametrize("path", BODIES)
def test_the_same_body_under_two_keys_or_in_two_episodes_is_two_requests(slow: Live, path: str) -> None:
    episodes = [slow.client.open_episode(EpisodeOpen()).id for _ in range(2)]
    places = [("a", episodes[0]), ("b", episodes[0]), ("c", episodes[1])]
    body = {**BODIES[path], ("max_output_tokens" if "responses" in path else "max_tokens"): 50}
    with ThreadPoolExecutor(len(places)) as pool:
        answers = list(
            pool.map(
                lambda place: slow.http.post(
                    path, json=body, headers={"idempotency-key": f"{path} {place[0]}", "x-episode-id": place[1]}
                ),
                places,
            )
        )
    assert [answer.headers["x-episode-id"] for answer in answers] == [episode for _, episode in places]
    assert len({answer.headers["x-turn-id"] for answer in answers}) == len(places)
