"""Anthropic's messages over a real socket with the official client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anthropic
import pytest

from server.recording.keys import create_key
from tests.support.dialects import ASK, BODIES, MESSAGES, SCHEMA, claude, extends
from tests.support.live import Live, serving, settings_for
from upturn.wire import EpisodeOpen, KeyCreate


def test_an_anthropic_client_gets_an_answer_whose_tokens_are_recorded(live: Live) -> None:
    raw = claude(live).messages.with_raw_response.create(model="policy", max_tokens=100, messages=ASK)
    answer = raw.parse()
    assert [block.model_dump(exclude_none=True) for block in answer.content] == [
        {"type": "text", "text": "Hello there."}
    ]
    assert (answer.model, answer.role, answer.stop_reason) == ("policy", "assistant", "end_turn")
    assert raw.headers["x-policy-version"] == "0"
    (turn,) = live.client.episode(raw.headers["x-episode-id"]).turns
    assert answer.id == f"msg_{turn.id}"
    assert (turn.prompt_tokens, turn.completion_tokens) == (answer.usage.input_tokens, answer.usage.output_tokens)
    assert turn.trainable


def test_anthropics_client_assembles_a_stream_that_is_recorded_before_its_end(live: Live) -> None:
    kinds, episode_id = [], ""
    with claude(live).messages.stream(model="policy", max_tokens=100, messages=ASK) as stream:
        episode_id = stream.response.headers["x-episode-id"]
        for event in stream:
            kinds.append(event.type)
            if event.type == "message_delta":
                assert len(live.client.episode(episode_id).turns) == 1
        answer = stream.get_final_message()
    assert answer.content[0].text == "Hello there."
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert kinds.count("content_block_delta") > 1
    (turn,) = live.client.episode(episode_id).turns
    assert (answer.stop_reason, answer.usage.input_tokens, answer.usage.output_tokens) == (
        "end_turn",
        turn.prompt_tokens,
        turn.completion_tokens,
    )


@pytest.mark.parametrize("stream", [False, True])
def test_an_anthropic_agent_calls_tools_and_continues_in_the_same_episode(talkative: Live, stream: bool) -> None:
    opened = talkative.client.open_episode(EpisodeOpen())
    api = claude(talkative, base_url=talkative.url + f"/episodes/{opened.id}")
    asked: dict[str, Any] = {
        "model": "policy",
        "max_tokens": 500,
        "tools": [{"name": "weather", "description": "Tells the weather.", "input_schema": SCHEMA}],
    }

    def say(talk: list[dict[str, Any]]) -> Any:
        if not stream:
            return api.messages.create(messages=talk, **asked)
        with api.messages.stream(messages=talk, **asked) as events:
            return events.get_final_message()

    answer = say(ASK)
    assert answer.stop_reason == "tool_use"
    text, *calls = answer.content
    assert text.text == "I look."
    assert [(call.name, call.input) for call in calls] == [
        ("weather", {"city": "Paris"}),
        ("weather", {"city": "Rome"}),
    ]
    results = [
        {"type": "tool_result", "tool_use_id": calls[0].id, "content": [{"type": "text", "text": "rain"}]},
        {"type": "tool_result", "tool_use_id": calls[1].id, "content": "no signal", "is_error": True},
        {"type": "text", "text": "Well?", "cache_control": {"type": "ephemeral"}},
    ]
    said = [block.model_dump(mode="json", exclude_none=True) for block in answer.content]
    second = say([*ASK, {"role": "assistant", "content": said}, {"role": "user", "content": results}])
    assert (second.content[0].text, second.stop_reason) == ("Rain, and sun.", "end_turn")
    _, two = extends(talkative, opened.id)
    assert two.messages == [
        {"role": "tool", "tool_call_id": calls[0].id, "content": "rain"},
        {"role": "tool", "tool_call_id": calls[1].id, "content": "Error: no signal"},
        {"role": "user", "content": "Well?"},
    ]


def test_anthropics_client_needs_an_agents_key_if_keys_are_required(tmp_path: Path) -> None:
    with serving(settings_for(tmp_path / "data", keys="required")) as live:
        agent, learner = (
            live.parts.writer.submit(
                lambda session, scope=scope: create_key(session, KeyCreate(name=scope, scopes=[scope]))
            )
            .result()
            .key
            for scope in ("agent", "learner")
        )
        assert claude(live, agent).messages.create(**BODIES[MESSAGES]).stop_reason == "end_turn"
        for key, kind, type_ in [
            ("up-wrong", anthropic.AuthenticationError, "authentication_error"),
            (learner, anthropic.PermissionDeniedError, "permission_error"),
        ]:
            with pytest.raises(kind) as refused:
                claude(live, key).messages.create(**BODIES[MESSAGES])
            assert refused.value.body["error"]["type"] == type_


def test_cache_marks_and_billing_headers_do_not_prevent_finding_a_conversation(live: Live) -> None:
    api, episodes, talk = claude(live), set(), list(ASK)
    for number in range(2):
        system = [
            {"type": "text", "text": f"x-anthropic-billing-header: cch={number};"},
            {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}},
        ]
        raw = api.messages.with_raw_response.create(model="policy", max_tokens=100, system=system, messages=talk)
        episodes.add(raw.headers["x-episode-id"])
        talk += [
            {"role": "assistant", "content": raw.parse().content[0].text},
            {"role": "user", "content": [{"type": "text", "text": "And?"}]},
        ]
    (episode_id,) = episodes
    one, _ = extends(live, episode_id)
    assert one.messages[0] == {"role": "system", "content": "Be brief."}


def test_an_answer_has_its_stop_reason(live: Live) -> None:
    api = claude(live)

    def end(**more: Any) -> tuple[Any, ...]:
        answer = api.messages.create(**{"model": "policy", "max_tokens": 100, "messages": ASK, **more})
        return answer.content[0].text, answer.stop_reason, answer.stop_sequence

    assert end(stop_sequences=["there", "o t"]) == ("Hell", "stop_sequence", "o t")
    assert end(stop_sequences=["never"]) == ("Hello there.", "end_turn", None)
    assert end(max_tokens=5) == ("Hello", "max_tokens", None)


@pytest.mark.parametrize("stream", [False, True])
def test_thinking_is_shown_on_request_and_the_conversation_continues_without_it(thoughtful: Live, stream: bool) -> None:
    opened = thoughtful.client.open_episode(EpisodeOpen())
    api = claude(thoughtful, opened.key)

    def say(talk: list[dict[str, Any]], **more: Any) -> list[dict[str, Any]]:
        asked: dict[str, Any] = {"model": "policy", "max_tokens": 2000, "messages": talk, **more}
        if not stream:
            answer = api.messages.create(**asked)
        else:
            with api.messages.stream(**asked) as events:
                answer = events.get_final_message()
        return [block.model_dump(mode="json", exclude_none=True) for block in answer.content]

    first = say(ASK, thinking={"type": "enabled", "budget_tokens": 1024})
    assert first == [{"type": "thinking", "thinking": "Hm.", "signature": ""}, {"type": "text", "text": "Yes."}]
    second = say([*ASK, {"role": "assistant", "content": first}, {"role": "user", "content": "And?"}])
    assert second == [{"type": "text", "text": "No."}]
    extends(thoughtful, opened.id)


def test_counted_tokens_equal_the_prompts_and_nothing_is_recorded(live: Live) -> None:
    api = claude(live)
    tools = [{"name": "weather", "input_schema": SCHEMA}]
    counted = api.messages.count_tokens(model="policy", messages=ASK, system="Be brief.", tools=tools)
    assert not live.parts.episodes.open_versions()
    answer = api.messages.create(model="policy", max_tokens=9, messages=ASK, system="Be brief.", tools=tools)
    assert counted.input_tokens == answer.usage.input_tokens


IMAGE = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}


@pytest.mark.parametrize(
    ("changes", "kind", "type_", "said"),
    [
        ({"model": "other"}, anthropic.NotFoundError, "not_found_error", "no model 'other'"),
        ({"max_tokens": 0}, anthropic.BadRequestError, "invalid_request_error", "max_tokens"),
        ({"extra_body": {"temperature": 3}}, anthropic.BadRequestError, "invalid_request_error", "temperature"),
        ({"messages": []}, anthropic.BadRequestError, "invalid_request_error", "messages"),
        (
            {"messages": [{"role": "user", "content": [IMAGE]}]},
            anthropic.BadRequestError,
            "invalid_request_error",
            "this model accepts text only, not a block of type: 'image'",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": [IMAGE]}]}
                ]
            },
            anthropic.BadRequestError,
            "invalid_request_error",
            "text only",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "thinking", "thinking": "a", "signature": ""}]}]},
            anthropic.BadRequestError,
            "invalid_request_error",
            "only the assistant",
        ),
        (
            {"messages": [*ASK, {"role": "assistant", "content": ""}]},
            anthropic.BadRequestError,
            "invalid_request_error",
            "can be continued",
        ),
        (
            {"tools": [{"type": "computer_20250124", "name": "computer"}]},
            anthropic.BadRequestError,
            "invalid_request_error",
            "this server does not support tools of type 'computer_20250124'",
        ),
        ({"tool_choice": {"type": "any"}}, anthropic.BadRequestError, "invalid_request_error", "needs tools"),
        (
            {"tools": [{"name": "a", "input_schema": {}}], "tool_choice": {"type": "tool", "name": "b"}},
            anthropic.BadRequestError,
            "invalid_request_error",
            "'b'",
        ),
        ({"tools": [{"name": "a b", "input_schema": {}}]}, anthropic.BadRequestError, "invalid_request_error", "name"),
        (
            {"messages": [{"role": "user", "content": "x" * 5000}]},
            anthropic.BadRequestError,
            "invalid_request_error",
            "prompt is too long",
        ),
        ({"extra_headers": {"x-episode-id": "ep_none"}}, anthropic.NotFoundError, "not_found_error", "ep_none"),
    ],
)
def test_an_invalid_message_request_gets_anthropics_error(
    live: Live, changes: dict[str, Any], kind: type[Exception], type_: str, said: str
) -> None:
    with pytest.raises(kind, match=said) as refused:
        claude(live).messages.create(**{"model": "policy", "max_tokens": 100, "messages": ASK, **changes})
    assert refused.value.body["type"] == "error"
    assert refused.value.body["error"]["type"] == type_
    assert not live.parts.episodes.open_versions(), "no episode was opened"


def test_errors_outside_the_route_have_anthropics_form_too(tmp_path: Path) -> None:
    with serving(settings_for(tmp_path / "data", max_body_bytes=2000)) as live:
        big = live.http.post("/v1/messages", json={**BODIES[MESSAGES], "system": "x" * 3000})
        broken = live.http.post("/v1/messages", content=b"{", headers={"content-type": "application/json"})
        counted = live.http.post("/episodes/ep_x/v1/messages/count_tokens", json={})
        method = live.http.get("/v1/messages")
        with pytest.raises(anthropic.AuthenticationError) as refused:
            claude(live, "ep-nobody").messages.create(**BODIES[MESSAGES])
        assert refused.value.body["error"]["type"] == "authentication_error"
        assert [answer.status_code for answer in (big, broken, counted, method)] == [413, 400, 400, 405]
        assert [answer.json()["error"]["type"] for answer in (big, broken, counted, method)] == [
            "request_too_large",
            *["invalid_request_error"] * 3,
        ]
        assert live.http.post("/v1/chat/completions", json={}).json()["error"]["code"] == "invalid_request"
