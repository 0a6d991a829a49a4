"""OpenAI's responses over a real socket with the official client."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from server.rendering.bytes_tokenizer import BytesTokenizer
from tests.support.dialects import ASK, SCHEMA, extends
from tests.support.live import Live
from upturn.wire import EpisodeOpen


def test_a_response_is_a_turn_and_can_be_retrieved(live: Live) -> None:
    raw = live.openai().responses.with_raw_response.create(
        model="policy", input="Hi", instructions="Be brief.", metadata={"a": "b"}, temperature=0.5
    )
    answer = raw.parse()
    assert (answer.output_text, answer.status, answer.model) == ("Hello there.", "completed", "policy")
    assert (answer.instructions, answer.metadata, answer.temperature) == ("Be brief.", {"a": "b"}, 0.5)
    (turn,) = live.client.episode(raw.headers["x-episode-id"]).turns
    assert answer.id == f"resp_{turn.id}"
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (turn.prompt_tokens, turn.completion_tokens)
    again = live.openai().responses.retrieve(answer.id)
    assert (again.output, again.usage, again.instructions) == (answer.output, answer.usage, "Be brief.")
    with pytest.raises(openai.NotFoundError):
        live.openai(key="sk-other").responses.retrieve(answer.id)


def test_openais_client_assembles_a_responses_stream_that_is_recorded_before_its_end(live: Live) -> None:
    kinds, numbers = [], []
    with live.openai().responses.stream(model="policy", input="Hi") as stream:
        for event in stream:
            kinds.append(event.type)
            numbers.append(event.sequence_number)
            if event.type == "response.completed":
                (turn,) = live.client.episode(stream._response.headers["x-episode-id"]).turns
        answer = stream.get_final_response()
    assert answer.output_text == "Hello there."
    assert numbers == list(range(len(numbers)))
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert (answer.id, answer.usage.output_tokens) == (f"resp_{turn.id}", turn.completion_tokens)


@pytest.mark.parametrize("stream", [False, True])
def test_a_responses_logprobs_are_those_of_chat(live: Live, stream: bool) -> None:
    api, alternatives = live.openai(), 2
    chat = api.chat.completions.create(
        model="policy",
        messages=[{"role": "user", "content": "Hi"}],
        logprobs=True,
        top_logprobs=alternatives,
        seed=1,
    )
    expected = [entry.model_dump() for entry in chat.choices[0].logprobs.content]
    asked: dict[str, Any] = {
        "model": "policy",
        "input": "Hi",
        "include": ["message.output_text.logprobs"],
        "top_logprobs": alternatives,
        "extra_body": {"seed": 1},
    }
    arrived: list[Any] = []
    if not stream:
        answer = api.responses.create(**asked)
    else:
        with api.responses.stream(**asked) as events:
            for event in events:
                if event.type == "response.output_text.delta":
                    arrived += event.logprobs
                elif event.type == "response.output_text.done":
                    assert [each.model_dump() for each in event.logprobs] == [each.model_dump() for each in arrived]
            answer = events.get_final_response()
        assert [entry.token for entry in arrived] == [entry["token"] for entry in expected][: len(arrived)]
        assert "".join(entry.token for entry in arrived) == answer.output_text
    (text,) = answer.output[0].content
    assert [entry.model_dump() for entry in text.logprobs] == expected
    assert all(len(entry["top_logprobs"]) == alternatives for entry in expected)


def test_a_response_without_that_include_shows_no_logprobs(live: Live) -> None:
    answer = live.openai().responses.create(model="policy", input="Hi", include=["reasoning.encrypted_content"])
    assert answer.output[0].content[0].logprobs == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("by_id", [False, True])
def test_a_responses_agent_calls_tools_and_continues_in_the_same_episode(
    talkative: Live, stream: bool, by_id: bool
) -> None:
    api, episodes = talkative.openai(), set()
    asked: dict[str, Any] = {
        "model": "policy",
        "instructions": "Be brief.",
        "tools": [
            {"type": "function", "name": "weather", "description": "Tells it.", "parameters": SCHEMA, "strict": False}
        ],
    }

    def say(**more: Any) -> Any:
        if not stream:
            raw = api.responses.with_raw_response.create(**asked, **more)
            episodes.add(raw.headers["x-episode-id"])
            return raw.parse()
        with api.responses.stream(**asked, **more) as events:
            episodes.add(events._response.headers["x-episode-id"])
            return events.get_final_response()

    answer = say(input=ASK)
    text, *calls = answer.output
    assert text.content[0].text == "I look."
    assert [(call.name, json.loads(call.arguments)) for call in calls] == [
        ("weather", {"city": "Paris"}),
        ("weather", {"city": "Rome"}),
    ]
    results = [
        {"type": "function_call_output", "call_id": call.call_id, "output": said}
        for call, said in zip(calls, ["rain", [{"type": "input_text", "text": "sun"}]], strict=True)
    ]
    if by_id:
        second = say(input=results, previous_response_id=answer.id)
    else:
        said = [item.model_dump(mode="json", exclude={"parsed_arguments", "status"}) for item in answer.output]
        second = say(input=[*ASK, *said, *results])
    assert (second.output_text, second.previous_response_id) == ("Rain, and sun.", answer.id if by_id else None)
    (episode_id,) = episodes
    _, two = extends(talkative, episode_id)
    assert [message["content"] for message in two.messages] == ["rain", "sun"]


def test_system_messages_are_carried_over_but_instructions_are_not(live: Live) -> None:
    api = live.openai(key=live.client.open_episode(EpisodeOpen()).key)
    first = api.responses.create(
        model="policy",
        instructions="Be brief.",
        input=[{"role": "developer", "content": [{"type": "input_text", "text": "Be kind."}]}, *ASK],
    )
    raw = api.responses.with_raw_response.create(
        model="policy", instructions="Be long.", previous_response_id=first.id, input="And?"
    )
    _, two = live.client.episode(raw.headers["x-episode-id"]).turns
    assert (
        BytesTokenizer()
        .decode(two.token_ids, skip_special=False)
        .startswith(
            "<|im_start|>system\nBe long.<|im_end|>\n<|im_start|>system\nBe kind.<|im_end|>\n"
            f"<|im_start|>user\n{ASK[0]['content']}<|im_end|>\n<|im_start|>assistant\nHello there.<|im_end|>\n"
            "<|im_start|>user\nAnd?<|im_end|>\n"
        )
    )
    third = api.responses.create(
        model="policy", previous_response_id=raw.parse().id, input="More", store=False, instructions="Be long."
    )
    _, two, three = live.client.episode(raw.headers["x-episode-id"]).turns
    assert three.token_ids[: len(two.token_ids)] == two.token_ids
    assert third.id == f"resp_{three.id}"


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_that_reaches_its_length_limit_is_incomplete(live: Live, stream: bool) -> None:
    api = live.openai()
    if stream:
        answer = list(api.responses.create(model="policy", input="Hi", max_output_tokens=5, stream=True))[-1].response
    else:
        answer = api.responses.create(model="policy", input="Hi", max_output_tokens=5)
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert answer.output[0].content[0].text == "Hello"
    assert api.responses.retrieve(answer.id).status == "incomplete"


@pytest.mark.parametrize("stream", [False, True])
def test_reasoning_is_an_item_that_can_be_sent_back(thoughtful: Live, stream: bool) -> None:
    opened = thoughtful.client.open_episode(EpisodeOpen())
    api = thoughtful.openai(key=opened.key)

    def say(talk: list[Any]) -> Any:
        if not stream:
            return api.responses.create(model="policy", input=talk)
        with api.responses.stream(model="policy", input=talk) as events:
            assert any(event.type == "response.reasoning_text.delta" for event in events)
            return events.get_final_response()

    reasoning, message = say(ASK).output
    assert (reasoning.content[0].text, message.content[0].text) == ("Hm.", "Yes.")
    sent = [item.model_dump(mode="json", exclude_none=True) for item in (reasoning, message)]
    assert say([*ASK, *sent, {"role": "user", "content": "And?"}]).output_text == "No."
    extends(thoughtful, opened.id)


def test_other_fields_of_codex_and_the_agents_sdk_have_no_effect(live: Live) -> None:
    raw = live.http.post(
        "/v1/responses",
        json={
            "model": "policy",
            "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}],
            "tools": [],
            "tool_choice": "auto",
            "parallel_tool_calls": False,
            "reasoning": {"effort": "high", "summary": "auto"},
            "include": ["reasoning.encrypted_content"],
            "store": False,
            "truncation": "disabled",
            "metadata": {},
            "user": "me",
            "prompt_cache_key": "a",
            "service_tier": "auto",
            "text": {"verbosity": "low"},
            "client_metadata": {"b": "c"},
            "previous_response_id": None,
            "stream": False,
        },
    )
    assert raw.json()["output"][0]["content"][0]["text"] == "Hello there."
    (turn,) = live.client.episode(raw.headers["x-episode-id"]).turns
    assert turn.trainable


class Weather(BaseModel):
    """The required format of an answer."""

    sunny: bool


@pytest.mark.parametrize(
    ("changes", "kind", "code", "said"),
    [
        ({"model": "other"}, openai.NotFoundError, "model_not_found", "no model"),
        ({"previous_response_id": "resp_none"}, openai.NotFoundError, "response_not_found", "resp_none"),
        ({"input": []}, openai.BadRequestError, "invalid_request", "messages"),
        (
            {"input": [{"type": "computer_call_output", "call_id": "a", "output": {}}]},
            openai.BadRequestError,
            "invalid_request",
            "does not support items of type: 'computer_call_output'",
        ),
        (
            {
                "input": [
                    {"role": "user", "content": [{"type": "input_image", "image_url": "https://example.com/a.png"}]}
                ]
            },
            openai.BadRequestError,
            "invalid_request",
            "text only, not a part of type: 'input_image'",
        ),
        (
            {"tools": [{"type": "telepathy"}]},
            openai.BadRequestError,
            "invalid_request",
            "tools of type 'telepathy'",
        ),
        (
            {"tools": [{"type": "function", "name": "a", "parameters": {}, "strict": False}] * 2},
            openai.BadRequestError,
            "invalid_request",
            "same name",
        ),
        ({"tool_choice": {"type": "web_search"}}, openai.BadRequestError, "invalid_request", "tool"),
        ({"tool_choice": "required"}, openai.BadRequestError, "invalid_request", "needs tools"),
        ({"background": True}, openai.BadRequestError, "unsupported_parameter", "'background'"),
        ({"max_output_tokens": 0}, openai.BadRequestError, "invalid_request", "max_output_tokens"),
        (
            {"text": {"format": {"type": "json_schema", "name": "a", "schema": Weather.model_json_schema()}}},
            openai.BadRequestError,
            "unsupported_parameter",
            "vllm",
        ),
    ],
)
def test_an_invalid_response_request_gets_openais_error(
    live: Live, changes: dict[str, Any], kind: type[openai.APIStatusError], code: str, said: str
) -> None:
    with pytest.raises(kind, match=said) as refused:
        live.openai().responses.create(**{"model": "policy", "input": "Hi", **changes})
    assert refused.value.code == code
    assert not live.parts.episodes.open_versions(), "no episode was opened"
