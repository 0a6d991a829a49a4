"""The other dialects over a real socket with the official clients: the same record, whoever speaks to it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from pydantic import BaseModel

from server.recording.keys import create_key
from server.rendering.bytes_tokenizer import BytesTokenizer
from tests.support.live import Live, script, serving, settings_for
from upturn.wire import EpisodeOpen, KeyCreate

ASK = [{"role": "user", "content": "How is it in Paris and Rome?"}]
PARIS, ROME = (
    f'<tool_call>\n{{"name": "weather", "arguments": {{"city": "{city}"}}}}\n</tool_call>' for city in ("Paris", "Rome")
)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
MESSAGES, RESPONSES, COMPLETIONS = "/v1/messages", "/v1/responses", "/v1/completions"
BODIES: dict[str, dict[str, Any]] = {
    MESSAGES: {"model": "policy", "max_tokens": 2000, "messages": ASK},
    RESPONSES: {"model": "policy", "input": "Hi"},
    COMPLETIONS: {"model": "policy", "prompt": "Once", "max_tokens": 2000},
}


@pytest.fixture
def talkative(tmp_path: Path) -> Iterator[Live]:
    """A server whose policy looks the weather up in two cities, and then tells it."""
    model = script(tmp_path / "script", f"I look.\n{PARIS}\n{ROME}", "Rain, and sun.")
    with serving(settings_for(tmp_path / "data", model=str(model))) as live:
        yield live


@pytest.fixture
def thoughtful(tmp_path: Path) -> Iterator[Live]:
    """A server whose policy thinks before it speaks."""
    model = script(tmp_path / "script", "<think>\nHm.\n</think>\n\nYes.", "<think>\nSo.\n</think>\n\nNo.")
    with serving(settings_for(tmp_path / "data", model=str(model))) as live:
        live.parts.renderer.reasons = True
        yield live


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Live]:
    """A server that answers word by word."""
    model = script(tmp_path / "script", "word " * 100, delay_s=0.02)
    with serving(settings_for(tmp_path / "data", model=str(model))) as live:
        yield live


def claude(live: Live, key: str = "sk-test", **more: Any) -> anthropic.Anthropic:
    """Anthropic's client."""
    return live.closing.enter_context(
        anthropic.Anthropic(base_url=more.pop("base_url", live.url), api_key=key, max_retries=0, **more)
    )


def extends(live: Live, episode_id: str) -> list[Any]:
    """Return an episode's turns after checking that each goes on from the recorded ids of the one before."""
    turns = live.client.episode(episode_id).turns
    for before, after in pairwise(turns):
        assert after.token_ids[: len(before.token_ids)] == before.token_ids
        assert after.logprobs[: len(before.logprobs)] == before.logprobs
    return turns


# ------------------------------------------------------------------------------------------- Anthropic's messages


def test_an_anthropic_client_gets_an_answer_and_the_record_has_its_tokens(live: Live) -> None:
    raw = claude(live).messages.with_raw_response.create(model="policy", max_tokens=100, messages=ASK)
    answer = raw.parse()
    assert [block.model_dump(exclude_none=True) for block in answer.content] == [
        {"type": "text", "text": "Hello there."}
    ]
    assert (answer.model, answer.role, answer.stop_reason) == ("policy@0", "assistant", "end_turn")
    assert raw.headers["x-policy-version"] == "0"
    (turn,) = live.client.episode(raw.headers["x-episode-id"]).turns
    assert answer.id == f"msg_{turn.id}"
    assert (turn.prompt_tokens, turn.completion_tokens) == (answer.usage.input_tokens, answer.usage.output_tokens)
    assert turn.trainable


def test_an_anthropic_stream_is_put_together_by_its_client_and_recorded_before_its_end(live: Live) -> None:
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
def test_an_anthropic_agent_calls_tools_and_goes_on_in_the_same_episode(talkative: Live, stream: bool) -> None:
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


def test_anthropics_client_needs_a_key_of_an_agent_where_keys_are_required(tmp_path: Path) -> None:
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


def test_a_conversation_is_found_again_although_its_client_marks_caches_and_bills(live: Live) -> None:
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


def test_an_answer_says_what_ended_it(live: Live) -> None:
    api = claude(live)

    def end(**more: Any) -> tuple[Any, ...]:
        answer = api.messages.create(**{"model": "policy", "max_tokens": 100, "messages": ASK, **more})
        return answer.content[0].text, answer.stop_reason, answer.stop_sequence

    assert end(stop_sequences=["there", "o t"]) == ("Hell", "stop_sequence", "o t")
    assert end(stop_sequences=["never"]) == ("Hello there.", "end_turn", None)
    assert end(max_tokens=5) == ("Hello", "max_tokens", None)


@pytest.mark.parametrize("stream", [False, True])
def test_thinking_is_shown_to_those_who_ask_and_the_talk_goes_on_without_it(thoughtful: Live, stream: bool) -> None:
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


def test_tokens_are_counted_as_they_will_be_and_nothing_is_recorded(live: Live) -> None:
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
            "this model reads text only, not a block of type: 'image'",
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
            {"messages": [*ASK, {"role": "assistant", "content": "It is"}]},
            anthropic.BadRequestError,
            "invalid_request_error",
            "prefill",
        ),
        (
            {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
            anthropic.BadRequestError,
            "invalid_request_error",
            "this server runs no tools of its own, such as: 'web_search_20250305'",
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
            "context",
        ),
        ({"extra_headers": {"x-episode-id": "ep_none"}}, anthropic.NotFoundError, "not_found_error", "ep_none"),
    ],
)
def test_what_is_wrong_is_one_of_anthropics_errors(
    live: Live, changes: dict[str, Any], kind: type[Exception], type_: str, said: str
) -> None:
    with pytest.raises(kind, match=said) as refused:
        claude(live).messages.create(**{"model": "policy", "max_tokens": 100, "messages": ASK, **changes})
    assert refused.value.body["type"] == "error"
    assert refused.value.body["error"]["type"] == type_
    assert not live.parts.episodes.open_versions(), "nothing was opened"


def test_errors_before_and_beside_the_route_have_anthropics_form_too(tmp_path: Path) -> None:
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


# --------------------------------------------------------------------------------------------- OpenAI's responses


def test_a_response_is_a_turn_and_can_be_read_again(live: Live) -> None:
    raw = live.openai().responses.with_raw_response.create(
        model="policy", input="Hi", instructions="Be brief.", metadata={"a": "b"}, temperature=0.5
    )
    answer = raw.parse()
    assert (answer.output_text, answer.status, answer.model) == ("Hello there.", "completed", "policy@0")
    assert (answer.instructions, answer.metadata, answer.temperature) == ("Be brief.", {"a": "b"}, 0.5)
    (turn,) = live.client.episode(raw.headers["x-episode-id"]).turns
    assert answer.id == f"resp_{turn.id}"
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (turn.prompt_tokens, turn.completion_tokens)
    again = live.openai().responses.retrieve(answer.id)
    assert (again.output, again.usage, again.instructions) == (answer.output, answer.usage, "Be brief.")
    with pytest.raises(openai.NotFoundError):
        live.openai(key="sk-other").responses.retrieve(answer.id)


def test_a_responses_stream_is_put_together_by_its_client_and_recorded_before_its_end(live: Live) -> None:
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
@pytest.mark.parametrize("by_id", [False, True])
def test_a_responses_agent_calls_tools_and_goes_on_in_the_same_episode(
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


def test_instructions_are_not_carried_over_and_system_messages_are(live: Live) -> None:
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
def test_a_response_that_is_cut_says_so(live: Live, stream: bool) -> None:
    api = live.openai()
    if stream:
        answer = list(api.responses.create(model="policy", input="Hi", max_output_tokens=5, stream=True))[-1].response
    else:
        answer = api.responses.create(model="policy", input="Hi", max_output_tokens=5)
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert answer.output[0].content[0].text == "Hello"
    assert api.responses.retrieve(answer.id).status == "incomplete"


@pytest.mark.parametrize("stream", [False, True])
def test_reasoning_is_an_item_that_may_be_sent_back(thoughtful: Live, stream: bool) -> None:
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


def test_what_codex_and_the_agents_sdk_send_beside_it_changes_nothing(live: Live) -> None:
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
    """What an answer has to look like."""

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
            "does not know an item of type: 'computer_call_output'",
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
            {"tools": [{"type": "web_search"}]},
            openai.BadRequestError,
            "invalid_request",
            "tools of its own.*'web_search'",
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
def test_what_is_wrong_with_a_response_is_one_of_openais_errors(
    live: Live, changes: dict[str, Any], kind: type[openai.APIStatusError], code: str, said: str
) -> None:
    with pytest.raises(kind, match=said) as refused:
        live.openai().responses.create(**{"model": "policy", "input": "Hi", **changes})
    assert refused.value.code == code
    assert not live.parts.episodes.open_versions(), "nothing was opened"


# ---------------------------------------------------------------------------------------------------- completions


@pytest.mark.parametrize("prompt", ["Once", list(b"Once")])
def test_a_completion_goes_on_from_exactly_its_prompt(live: Live, prompt: str | list[int]) -> None:
    raw = live.openai().completions.with_raw_response.create(model="policy", prompt=prompt, max_tokens=50, logprobs=2)
    (choice,) = (answer := raw.parse()).choices
    assert (choice.text, choice.finish_reason, answer.model) == ("Hello there.", "stop", "policy@0")
    (turn,) = live.client.episode(raw.headers["x-episode-id"]).turns
    assert turn.token_ids[: turn.prompt_tokens] == list(b"Once")
    assert turn.messages == [{"role": "prompt", "content": "Once"}]
    assert answer.id == f"cmpl-{turn.id}"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, turn.completion_tokens)
    assert choice.logprobs.token_logprobs == pytest.approx([x for x in turn.logprobs if x is not None])
    assert "".join(choice.logprobs.tokens) == "Hello there."
    assert [len(top) for top in choice.logprobs.top_logprobs][:-1] == [2] * 12
    assert turn.trainable


def test_a_completion_is_short_unless_it_is_asked_to_be_long(slow: Live) -> None:
    (choice,) = slow.openai().completions.create(model="policy", prompt="Once").choices
    assert (choice.text, choice.finish_reason) == (("word " * 4)[:16], "length")


@pytest.mark.parametrize("stream", [False, True])
def test_several_prompts_get_several_answers_each(live: Live, stream: bool) -> None:
    raw = live.openai().completions.with_raw_response.create(
        model="policy", prompt=["Once", "Once", "Twice"], n=2, max_tokens=50, seed=1, stream=stream
    )
    found: dict[int, str] = {}
    for part in raw.parse() if stream else [raw.parse()]:
        for choice in part.choices:
            found[choice.index] = found.get(choice.index, "") + choice.text
    assert found == dict.fromkeys(range(6), "Hello there.")
    turn_ids, episode_ids = raw.headers["x-turn-id"].split(","), raw.headers["x-episode-id"].split(",")
    turns = [turn for episode_id in episode_ids for turn in live.client.episode(episode_id).turns]
    assert [turn.id for turn in turns] == turn_ids
    assert [turn.messages[0]["content"] for turn in turns if turn.messages] == ["Once"] * 4 + ["Twice"] * 2


def test_a_completions_stream_tells_its_usage(live: Live) -> None:
    parts = list(
        live.openai().completions.create(
            model="policy", prompt="Once", max_tokens=50, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(choice.text for part in parts for choice in part.choices) == "Hello there."
    assert parts[-2].choices[0].finish_reason == "stop"
    assert parts[-1].usage.prompt_tokens == 4


def test_a_completion_of_text_is_text_whatever_stands_in_it(tmp_path: Path) -> None:
    said = f"<think>Hm.</think> {PARIS}"
    with serving(settings_for(tmp_path / "data", model=str(script(tmp_path / "script", said)))) as live:
        live.parts.renderer.reasons = True
        (choice,) = live.openai().completions.create(model="policy", prompt="Once", max_tokens=500).choices
        assert choice.text == said


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"prompt": []}, "invalid_request"),
        ({"prompt": ""}, "invalid_request"),
        ({"prompt": ["a", ""]}, "invalid_request"),
        ({"prompt": [1, "a"]}, "invalid_request"),
        ({"prompt": [259]}, "invalid_request"),
        ({"prompt": [-1]}, "invalid_request"),
        ({"prompt": [[]]}, "invalid_request"),
        ({"prompt": ["a"] * 65, "n": 2}, "invalid_request"),
        ({"prompt": 7}, "invalid_request"),
        ({"echo": True}, "unsupported_parameter"),
        ({"suffix": "end"}, "unsupported_parameter"),
        ({"best_of": 2}, "unsupported_parameter"),
        ({"prompt": "x" * 5000}, "context_length_exceeded"),
        ({"extra_body": {"messages": 7, "position": 8}, "model": "other"}, "model_not_found"),
    ],
)
def test_what_is_wrong_with_a_completion_is_one_of_openais_errors(
    live: Live, changes: dict[str, Any], code: str
) -> None:
    with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as refused:
        live.openai().completions.create(**{"model": "policy", "prompt": "Once", **changes})
    assert refused.value.code == code


# ------------------------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("path", [MESSAGES, RESPONSES])
def test_one_call_at_a_time_is_one_call(talkative: Live, path: str) -> None:
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
def test_text_around_a_call_streams_in_its_order_and_is_known_again(tmp_path: Path, path: str) -> None:
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
def test_a_retry_in_any_dialect_is_answered_from_the_record(live: Live, path: str, stream: bool) -> None:
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
def test_an_idempotency_key_in_any_dialect_stands_for_one_request(live: Live, path: str) -> None:
    headers = {"idempotency-key": "once"}
    body = {**BODIES[path], **({"prompt": ["Once", "Twice"]} if path == COMPLETIONS else {})}
    first = live.http.post(path, json=body, headers=headers)
    assert live.http.post(path, json=body, headers=headers).headers["x-turn-id"] == first.headers["x-turn-id"]
    other = live.http.post(path, json={**body, "temperature": 0.5}, headers=headers)
    assert other.status_code == 409


@pytest.mark.parametrize("path", BODIES)
def test_a_client_of_any_dialect_that_disconnects_leaves_a_marked_turn(slow: Live, path: str) -> None:
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
def test_every_dialect_has_its_path_under_an_episode(live: Live, path: str) -> None:
    opened = live.client.open_episode(EpisodeOpen())
    answer = live.http.post(f"/episodes/{opened.id}{path}", json=BODIES[path])
    assert answer.headers["x-episode-id"] == opened.id
    assert len(live.client.episode(opened.id).turns) == 1
