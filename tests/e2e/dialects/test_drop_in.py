"""Drop-in coverage: what OpenAI's, Anthropic's and vLLM's clients send works, or is refused by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from server.api.dialects.streams import TextEvent
from server.engines.local import LocalEngine
from tests.support.dialects import PARIS, SCHEMA, claude
from tests.support.live import Live, script, serving, settings_for
from upturn.wire import EpisodeOpen

CHAT, COMPLETIONS, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"
ASK = [{"role": "user", "content": "Hi"}]
SAID = "Hello there."
GREEDY: dict[str, dict[str, Any]] = {
    CHAT: {"messages": ASK, "temperature": 0},
    COMPLETIONS: {"prompt": "Hi", "temperature": 0},
    MESSAGES: {"messages": ASK, "temperature": 0, "max_tokens": 99},
    RESPONSES: {"input": "Hi", "temperature": 0},
}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server with further names for its policy."""
    home: Path = tmp_path_factory.mktemp("drop-in")
    model = script(home / "script", SAID)
    settings = settings_for(home / "data", model=str(model), aliases=["gpt-4o", "claude-*"])
    with serving(settings) as started:
        yield started


@pytest.fixture(scope="module")
def calling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server whose policy calls the weather tool, then answers."""
    home: Path = tmp_path_factory.mktemp("calling")
    model = script(home / "script", PARIS, "Rain.")
    with serving(settings_for(home / "data", model=str(model))) as started:
        yield started


def sse(text: str) -> list[dict[str, Any]]:
    """Return the events of a stream."""
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


# ------------------------------------------------------------------------------------------------- untrainable turns


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", GREEDY)
def test_an_answer_says_when_it_will_not_be_trained_on_and_why(live: Live, path: str, stream: bool) -> None:
    body = {"model": "policy", "stream": stream, **GREEDY[path]}
    assert live.http.post(path, json=body).headers["x-upturn-untrainable"] == "greedy"
    sampled = {name: value for name, value in body.items() if name != "temperature"}
    assert "x-upturn-untrainable" not in live.http.post(path, json=sampled).headers
    assert live.http.post(path, json={**sampled, "top_p": 0.5}).headers["x-upturn-untrainable"] == "truncated_sampling"
    forbidden = live.http.post(path, json=sampled, headers={"x-no-train": "1"})
    assert forbidden.headers["x-upturn-untrainable"] == "no_train"


def test_a_repeated_answer_says_so_too(live: Live) -> None:
    for path, body in GREEDY.items():
        headers = {"idempotency-key": f"again {path}"}
        first, second = (live.http.post(path, json={"model": "policy", **body}, headers=headers) for _ in range(2))
        assert first.headers["x-turn-id"] == second.headers["x-turn-id"]
        assert second.headers["x-upturn-untrainable"] == "greedy"


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES])
def test_a_field_that_the_engine_would_ignore_is_refused_by_name(
    live: Live, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"model": "policy", **GREEDY[path], "presence_penalty": 0.5}
    assert live.http.post(path, json=body).status_code == 200
    monkeypatch.setattr(live.parts.engine, "fields", LocalEngine.fields, raising=False)
    refused = live.http.post(path, json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "presence_penalty")
    assert live.http.post(path, json={**body, "presence_penalty": 0}).status_code == 200
    assert live.http.post(path, json={**GREEDY[path], "model": "policy", "ignore_eos": True}).status_code == 200


def test_the_server_says_how_many_of_the_last_turns_are_untrainable_and_why(live: Live) -> None:
    live.http.post(CHAT, json={"model": "policy", **GREEDY[CHAT]})
    turns = live.client.ready().turns
    assert turns is not None and "% of the last" in turns.summary and "greedy (temperature 0)" in turns.summary
    assert live.http.get("/").json()["turns"] == turns.summary
    assert turns.summary in live.http.get("/", headers={"accept": "text/html"}, follow_redirects=True).text


# ------------------------------------------------------------------------------------------------------------- names


def test_an_alias_answers_and_is_repeated_and_the_version_is_in_the_fingerprint(live: Live) -> None:
    for name in ("gpt-4o", "claude-haiku-4-5@20251001", "policy", "gpt-4o@head", "policy@0"):
        answer = live.http.post(CHAT, json={"model": name, "messages": ASK})
        assert (answer.json()["model"], answer.json()["system_fingerprint"]) == (name, "policy@0")
        assert answer.headers["x-policy-version"] == "0"
        chunks = sse(live.http.post(CHAT, json={"model": name, "messages": ASK, "stream": True}).text)
        assert {(chunk["model"], chunk["system_fingerprint"]) for chunk in chunks} == {(name, "policy@0")}
        for path in (COMPLETIONS, MESSAGES, RESPONSES):
            assert live.http.post(path, json={"model": name, **GREEDY[path]}).json()["model"] == name
    assert live.http.get("/v1/models/claude-x").status_code == 200
    assert "gpt-4o" in [model["id"] for model in live.http.get("/v1/models").json()["data"]]
    assert live.client.open_episode(EpisodeOpen(policy="gpt-4o")).id
    for wrong in ("gpt-4", "gpt-4o@99", "policy@", "claude" + "-" * 500):
        refused = live.http.post(CHAT, json={"model": wrong, "messages": ASK})
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found"), wrong


def test_a_catch_all_accepts_every_name_but_no_missing_version(tmp_path: Path) -> None:
    model = script(tmp_path / "script", SAID)
    with serving(settings_for(tmp_path / "data", model=str(model), aliases=["*"])) as live:
        for name in ("anything", "us.anthropic.claude-3@v1", "a/b:c"):
            assert live.http.post(CHAT, json={"model": name, "messages": ASK}).json()["model"] == name
        for name in (TextEvent.PLACE, 'a"},{"delta":"x', "💡"):
            chunks = sse(live.http.post(CHAT, json={"model": name, "messages": ASK, "stream": True}).text)
            assert {chunk["model"] for chunk in chunks} == {name}
            assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == SAID
        assert live.http.post(CHAT, json={"model": "policy@7", "messages": ASK}).status_code == 404


# --------------------------------------------------------------------------------------------------- ids and prefill


def test_token_ids_are_returned_whole_and_streamed(live: Live) -> None:
    body = {"model": "policy", "messages": ASK, "return_token_ids": True}
    whole = live.http.post(CHAT, json=body).json()
    episode = live.http.post(CHAT, json={**body, "stream": True})
    chunks = sse(episode.text)
    (turn,) = live.client.episode(episode.headers["x-episode-id"]).turns
    prompt, answer = whole["prompt_token_ids"], whole["choices"][0]["token_ids"]
    assert turn.token_ids == prompt + answer
    assert [chunk["prompt_token_ids"] for chunk in chunks if "prompt_token_ids" in chunk] == [prompt]
    streamed = [i for chunk in chunks for choice in chunk["choices"] for i in choice.get("token_ids", [])]
    assert streamed == answer
    completed = live.http.post(COMPLETIONS, json={"model": "policy", "prompt": [72, 105], "return_token_ids": True})
    (choice,) = completed.json()["choices"]
    assert choice["prompt_token_ids"] == [72, 105] and bytes(choice["token_ids"][:5]) == b"Hello"


def test_a_repeated_answer_returns_the_same_token_ids(live: Live) -> None:
    first = live.http.post(CHAT, json={"model": "policy", "messages": ASK})
    talk = [*ASK, {"role": "assistant", "content": SAID}, {"role": "user", "content": "Again"}]
    headers = {"x-episode-id": first.headers["x-episode-id"], "idempotency-key": "ids"}
    body = {"model": "policy", "messages": talk, "return_token_ids": True}
    seen = [live.http.post(CHAT, json=body, headers=headers).json() for _ in range(2)]
    assert seen[0]["prompt_token_ids"] == seen[1]["prompt_token_ids"] and len(seen[0]["prompt_token_ids"]) > 20
    assert seen[0]["choices"] == seen[1]["choices"]


def test_a_stop_token_ends_the_answer_and_is_not_shown(live: Live) -> None:
    opened = live.client.open_episode(EpisodeOpen())
    body = {"model": "policy", "messages": ASK, "stop_token_ids": [ord("t")], "return_token_ids": True}
    for more in ({}, {"stream": True}):
        answer = live.http.post(CHAT, json={**body, **more}, headers={"x-episode-id": opened.id})
        events = sse(answer.text) if more else [answer.json()]
        choices = [choice for event in events for choice in event["choices"]]
        shown = "".join((choice.get("message") or choice["delta"]).get("content") or "" for choice in choices)
        assert shown == "Hello " and choices[-1]["finish_reason"] == "stop"
        assert choices[-1]["token_ids"][-1] == ord("t")
    assert [turn.untrainable_reason for turn in live.client.episode(opened.id).turns] == [None, None]


@pytest.mark.parametrize("way", ["continue_final_message", "prefix", "anthropic"])
def test_an_answer_begun_by_the_caller_is_continued_and_recorded_as_one(live: Live, way: str) -> None:
    begun = {"role": "assistant", "content": "Well: ", **({"prefix": True} if way == "prefix" else {})}
    if way == "anthropic":
        path, body = MESSAGES, {"max_tokens": 99}
    else:
        path, body = CHAT, {"continue_final_message": True} if way == "continue_final_message" else {}
    asked = {"model": "policy", "messages": [*ASK, begun], **body}
    answer = live.http.post(path, json=asked, headers={"idempotency-key": way})
    assert answer.status_code == 200, answer.text
    said = answer.json()
    said = said["content"][0]["text"] if way == "anthropic" else said["choices"][0]["message"]["content"]
    assert said == SAID, "only the continuation is shown"
    again = live.http.post(path, json=asked, headers={"idempotency-key": way}).json()
    assert again["id"] == answer.json()["id"] and SAID in json.dumps(again) and "Well" not in json.dumps(again)
    (turn,) = live.client.episode(answer.headers["x-episode-id"]).turns
    assert turn.answer["content"] == f"Well: {SAID}" and turn.messages == ASK
    assert f"assistant\nWell: {SAID}".encode() in bytes(i for i in turn.token_ids if i < 256)
    talk = [*ASK, {"role": "assistant", "content": f"Well: {SAID}"}, {"role": "user", "content": "More"}]
    after = live.http.post(path, json={"model": "policy", "messages": talk, "max_tokens": 99})
    assert after.headers["x-episode-id"] == answer.headers["x-episode-id"]
    turns = live.client.episode(after.headers["x-episode-id"]).turns
    assert turns[1].token_ids[: len(turns[0].token_ids)] == turns[0].token_ids


# ------------------------------------------------------------------------------------------------- scores of prompts


def test_a_prompt_is_scored_as_lm_eval_reads_it(live: Live) -> None:
    prompts = [[72, 105], [79, 110, 99, 101]]
    body = {"model": "policy", "prompt": prompts, "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True}
    answer = live.http.post(COMPLETIONS, json=body).json()
    for prompt, choice in zip(prompts, answer["choices"], strict=True):
        scores = choice["logprobs"]
        assert choice["text"] == bytes(prompt).decode() + "H"
        assert scores["token_logprobs"][0] is None and scores["top_logprobs"][0] is None
        assert len(scores["token_logprobs"]) == len(scores["tokens"]) == len(prompt) + 1
        assert all(value < 0 for value in scores["token_logprobs"][1:])
        scored = zip(scores["top_logprobs"][1:], scores["token_logprobs"][1:], strict=True)
        assert all(max(top.values()) >= value for top, value in scored)
    text = {**body, "prompt": "Hi"}
    assert live.http.post(COMPLETIONS, json=text).json()["choices"][0]["logprobs"] == answer["choices"][0]["logprobs"]
    streamed = sse(live.http.post(COMPLETIONS, json={**text, "stream": True}).text)
    assert "".join(choice["text"] for event in streamed for choice in event["choices"]) == "HiH"
    whole = answer["choices"][0]["logprobs"]["token_logprobs"]
    assert streamed[0]["choices"][0]["logprobs"]["token_logprobs"] == whole[:2]


def test_max_tokens_0_scores_a_prompt_and_records_nothing(live: Live) -> None:
    body = {"model": "gpt-4o", "prompt": "Once", "max_tokens": 0, "prompt_logprobs": 2, "foo": 1}
    answer = live.http.post(COMPLETIONS, json=body)
    assert "x-episode-id" not in answer.headers and answer.headers["x-upturn-warning"] == "ignored unknown fields: foo"
    (choice,) = answer.json()["choices"]
    likeliest = [entry and next(iter(entry)) for entry in choice["prompt_logprobs"]]
    assert choice["text"] == "" and likeliest == [None, *map(str, b"nce")]
    assert live.http.post(COMPLETIONS, json={**body, "model": "other"}).status_code == 404


# ------------------------------------------------------------------------------------------------------------- tools


def test_legacy_functions_are_called_in_their_own_form_and_stay_in_the_conversation(calling: Live) -> None:
    functions = [{"name": "weather", "parameters": SCHEMA}]
    body = {"model": "policy", "messages": ASK, "functions": functions, "function_call": "auto"}
    first = calling.http.post(CHAT, json=body)
    (choice,) = first.json()["choices"]
    assert choice["finish_reason"] == "function_call" and "tool_calls" not in choice["message"]
    call = choice["message"]["function_call"]
    assert call["name"] == "weather" and json.loads(call["arguments"]) == {"city": "Paris"}
    streamed = sse(calling.http.post(CHAT, json={**body, "stream": True, "user": "another"}).text)
    choices = [choice for event in streamed for choice in event["choices"]]
    deltas = [each["delta"]["function_call"] for each in choices if each["delta"].get("function_call")]
    assert "".join(delta.get("name", "") for delta in deltas) == "weather"
    assert "".join(delta["arguments"] for delta in deltas) == call["arguments"]
    talk = [*ASK, choice["message"], {"role": "function", "name": "weather", "content": "rain"}]
    second = calling.http.post(CHAT, json={**body, "messages": talk})
    assert second.headers["x-episode-id"] == first.headers["x-episode-id"]
    turns = calling.client.episode(second.headers["x-episode-id"]).turns
    assert b"rain" in bytes(i for i in turns[1].token_ids if i < 256)
    assert turns[1].token_ids[: len(turns[0].token_ids)] == turns[0].token_ids


def test_arguments_may_be_objects(calling: Live) -> None:
    tools = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]
    first = calling.http.post(CHAT, json={"model": "policy", "messages": ASK, "tools": tools})
    message = first.json()["choices"][0]["message"]
    message["tool_calls"][0]["function"]["arguments"] = {"city": "Paris"}
    talk = [*ASK, message, {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "rain"}]
    second = calling.http.post(CHAT, json={"model": "policy", "messages": talk, "tools": tools})
    assert second.headers["x-episode-id"] == first.headers["x-episode-id"]


def test_a_custom_tool_of_chat_is_called_with_text(calling: Live) -> None:
    tools = [{"type": "custom", "custom": {"name": "weather", "description": "Weather of a city."}}]
    body = {"model": "policy", "messages": ASK, "tools": tools}
    (choice,) = calling.http.post(CHAT, json=body).json()["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert call["type"] == "custom" and call["custom"] == {"name": "weather", "input": '{"city": "Paris"}'}
    streamed = sse(calling.http.post(CHAT, json={**body, "stream": True}).text)
    parts = [c["delta"]["tool_calls"][0] for e in streamed for c in e["choices"] if c["delta"].get("tool_calls")]
    assert "".join(part["custom"]["input"] for part in parts) == '{"city": "Paris"}'
    talk = [*ASK, choice["message"], {"role": "tool", "tool_call_id": call["id"], "content": "rain"}]
    assert calling.http.post(CHAT, json={**body, "messages": talk}).status_code == 200


def test_only_allowed_tools_are_shown(calling: Live) -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("weather", "secret")]
    chosen = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "weather"}}]}
    choice = {"type": "allowed_tools", "allowed_tools": chosen}
    body: dict[str, Any] = {"model": "policy", "messages": ASK, "tools": tools, "tool_choice": choice}
    answer = calling.http.post(CHAT, json=body)
    (turn,) = calling.client.episode(answer.headers["x-episode-id"]).turns
    shown = bytes(i for i in turn.token_ids if i < 256)
    assert b"weather" in shown and b"secret" not in shown
    body["tool_choice"]["allowed_tools"] = {**chosen, "tools": [{"type": "function", "function": {"name": "other"}}]}
    assert calling.http.post(CHAT, json=body).status_code == 400
    flat = [{"type": "function", "name": tool["function"]["name"]} for tool in tools]
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": flat[:1]}
    asked = {"model": "policy", "input": "Hi", "tools": flat, "tool_choice": allowed}
    response = calling.http.post(RESPONSES, json=asked)
    assert response.status_code == 200, response.text


def test_several_hundred_tools_are_accepted_as_far_as_the_context_reaches(calling: Live) -> None:
    tools = [{"type": "function", "function": {"name": f"f{number}"}} for number in range(300)]
    refused = calling.http.post(CHAT, json={"model": "policy", "messages": ASK, "tools": tools})
    assert refused.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("part", "shown"),
    [
        ({"type": "input_text", "text": "one"}, "one"),
        ({"type": "output_text", "text": "two", "annotations": []}, "two"),
        ({"type": "refusal", "refusal": "three"}, "three"),
    ],
)
def test_text_parts_of_every_spelling_reach_the_model(live: Live, part: dict[str, Any], shown: str) -> None:
    for role in ("user", "assistant"):
        talk = [*ASK, {"role": role, "content": [part]}, {"role": "user", "content": "Go on"}]
        answer = live.http.post(CHAT, json={"model": "policy", "messages": talk})
        assert answer.status_code == 200, answer.text
        turn = live.client.episode(answer.headers["x-episode-id"]).turns[-1]
        assert shown.encode() in bytes(i for i in turn.token_ids if i < 256)


def test_thoughts_among_the_parts_are_kept_as_thoughts(live: Live) -> None:
    parts = [{"type": "thinking", "thinking": "hm", "signature": ""}, {"type": "text", "text": "Yes"}]
    talk = [*ASK, {"role": "assistant", "content": parts}, {"role": "user", "content": "Go on"}]
    answer = live.http.post(CHAT, json={"model": "policy", "messages": talk})
    (turn,) = live.client.episode(answer.headers["x-episode-id"]).turns
    assert turn.messages[1]["reasoning_content"] == "hm" and turn.messages[1]["content"] == [parts[1]]


@pytest.mark.parametrize("field", [{"chat_template_kwargs": {"enable_thinking": False}}, {"enable_thinking": False}])
def test_a_switch_for_thoughts_that_the_model_lacks_has_no_effect(live: Live, field: dict[str, Any]) -> None:
    answer = live.http.post(CHAT, json={"model": "policy", "messages": ASK, **field})
    assert answer.status_code == 200 and "enable_thinking" in answer.headers["x-upturn-warning"]
    other = live.http.post(CHAT, json={"model": "policy", "messages": ASK, "chat_template_kwargs": {"budget": 1}})
    assert (other.status_code, other.json()["error"]["code"]) == (400, "unsupported_parameter")


# --------------------------------------------------------------------------------------------------- Codex and AI SDK

NAMESPACE = {
    "type": "namespace",
    "name": "sky",
    "description": "The sky.",
    "tools": [{"type": "function", "name": "weather", "parameters": SCHEMA}],
}


def test_a_namespaces_tools_are_flattened_for_the_model_and_named_as_before_in_calls(tmp_path: Path) -> None:
    model = script(tmp_path / "script", PARIS.replace("weather", "sky__weather"), "Rain.")
    with serving(settings_for(tmp_path / "data", model=str(model))) as live:
        body = {"model": "policy", "input": "Hi", "tools": [NAMESPACE, {"type": "web_search"}]}
        first = live.http.post(RESPONSES, json=body)
        (call,) = first.json()["output"]
        assert (call["type"], call["namespace"], call["name"]) == ("function_call", "sky", "weather")
        assert first.headers["x-upturn-warning"] == "left out tools that this server does not run: web_search"
        events = sse(live.http.post(RESPONSES, json={**body, "stream": True}).text)
        added = [event["item"] for event in events if event["type"] == "response.output_item.added"]
        assert [(item["namespace"], item["name"]) for item in added] == [("sky", "weather")]
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"}
        talk = [{"role": "user", "content": "Hi"}, call, output]
        second = live.http.post(RESPONSES, json={**body, "input": talk})
        assert second.headers["x-episode-id"] == first.headers["x-episode-id"]
        for name, status in (("weather", 400), ("sky__weather", 400), ("other", 400)):
            forced = {**body, "tool_choice": {"type": "function", "name": name}}
            answer = live.http.post(RESPONSES, json=forced)
            assert answer.status_code == status and ("engine" in answer.text) == (name != "other")


def test_a_custom_tool_of_responses_is_called_with_text(tmp_path: Path) -> None:
    patch = '<tool_call>\n{"name": "apply_patch", "arguments": {"input": "*** Begin"}}\n</tool_call>'
    with serving(settings_for(tmp_path / "data", model=str(script(tmp_path / "script", patch, "Done.")))) as live:
        grammar = {"type": "grammar", "syntax": "lark", "definition": "start: begin"}
        tool = {"type": "custom", "name": "apply_patch", "format": grammar}
        body = {"model": "policy", "input": "Hi", "tools": [tool]}
        first = live.http.post(RESPONSES, json=body)
        (call,) = first.json()["output"]
        assert (call["type"], call["name"], call["input"]) == ("custom_tool_call", "apply_patch", "*** Begin")
        events = sse(live.http.post(RESPONSES, json={**body, "stream": True}).text)
        done = [event for event in events if event["type"] == "response.custom_tool_call_input.done"]
        assert [event["input"] for event in done] == ["*** Begin"]
        output = {"type": "custom_tool_call_output", "call_id": call["call_id"], "output": "ok"}
        second = live.http.post(RESPONSES, json={**body, "input": [{"role": "user", "content": "Hi"}, call, output]})
        assert second.headers["x-episode-id"] == first.headers["x-episode-id"]


def test_items_on_record_can_be_named_instead_of_sent(live: Live) -> None:
    api = live.openai(key="mine")
    first = api.responses.create(model="policy", input="Hi")
    for reference in ({"type": "item_reference", "id": first.output[0].id}, {"id": first.output[0].id}):
        talk = [{"role": "user", "content": "Hi"}, reference, {"role": "user", "content": "And?"}]
        headers = {"authorization": "Bearer mine"}
        raw = live.http.post(RESPONSES, json={"model": "policy", "input": talk}, headers=headers)
        assert raw.status_code == 200, raw.text
        turns = live.client.episode(raw.headers["x-episode-id"]).turns
        assert turns[-1].token_ids[: len(turns[0].token_ids)] == turns[0].token_ids
    for wrong in ("msg_none_0", first.output[0].id[:-1] + "7", "x", f"rs_{first.id[5:]}_0"):
        with pytest.raises(openai.NotFoundError, match="not found"):
            api.responses.create(model="policy", input=[{"type": "item_reference", "id": wrong}])
    with pytest.raises(openai.NotFoundError):
        live.openai(key="other").responses.create(
            model="policy", input=[{"type": "item_reference", "id": first.output[0].id}]
        )


def test_input_items_are_listed_in_pages(live: Live) -> None:
    api = live.openai()
    first = api.responses.create(model="policy", input="Hi", instructions="Be kind.")
    second = api.responses.create(model="policy", input="And?", previous_response_id=first.id)
    items = list(api.responses.input_items.list(second.id, order="asc", limit=1))
    texts = [item.content[0].text for item in items]
    assert texts == ["Hi", SAID, "And?"] and len({item.id for item in items}) == 3
    assert [item.content[0].text for item in api.responses.input_items.list(second.id)] == texts[::-1]
    with pytest.raises(openai.NotFoundError):
        api.responses.input_items.list("resp_none")
    with pytest.raises(openai.NotFoundError):
        api.responses.input_items.list(second.id, after="nothing")
    with pytest.raises(openai.BadRequestError):
        api.responses.input_items.list(second.id, limit=0)


def test_a_deleted_response_is_hidden_and_never_trained_on(live: Live) -> None:
    first = live.http.post(RESPONSES, json={"model": "policy", "input": "Delete me"})
    path = f"{RESPONSES}/{first.json()['id']}"
    foreign = live.http.delete(path, headers={"authorization": "Bearer other"})
    assert foreign.status_code == 404 and live.http.get(path).status_code == 200
    gone = live.http.delete(path)
    assert gone.json() == {"id": first.json()["id"], "object": "response", "deleted": True}
    assert [live.http.delete(path).status_code, live.http.get(path).status_code] == [404, 404]
    again = {"model": "policy", "input": "x", "previous_response_id": first.json()["id"]}
    assert live.http.post(RESPONSES, json=again).status_code == 404
    (turn,) = live.client.episode(first.headers["x-episode-id"]).turns
    assert turn.untrainable_reason == "deleted"


# --------------------------------------------------------------------------------------------------------- Claude Code


@pytest.mark.parametrize(
    ("kind", "name", "argument"),
    [
        ("bash_20250124", "bash", "restart"),
        ("text_editor_20250728", "str_replace_based_edit_tool", "view_range"),
        ("text_editor_20250124", "str_replace_editor", "file_text"),
        ("memory_20250818", "memory", "new_path"),
    ],
)
def test_tools_that_claude_code_runs_are_shown_with_a_schema(live: Live, kind: str, name: str, argument: str) -> None:
    tools = [{"type": kind, "name": name}, {"type": "web_search_20250305", "name": "web_search"}]
    raw = claude(live).messages.with_raw_response.create(
        model="claude-haiku-4-5-20251001", max_tokens=99, messages=ASK, tools=tools
    )
    assert raw.headers["x-upturn-warning"] == "left out tools that Anthropic's servers run: web_search_20250305"
    (turn,) = live.client.episode(raw.headers["x-episode-id"]).turns
    shown = bytes(i for i in turn.token_ids if i < 256).decode()
    assert f'"name": "{name}"' in shown and f'"{argument}"' in shown and "web_search" not in shown
    with pytest.raises(anthropic.BadRequestError, match="computer_20250124"):
        claude(live).messages.create(
            model="policy", max_tokens=9, messages=ASK, tools=[{"type": "computer_20250124", "name": "computer"}]
        )


@pytest.mark.parametrize("characters", [4080, 5000, 60_000])
def test_a_prompt_that_is_too_long_is_refused_in_the_vendors_words(live: Live, characters: int) -> None:
    long = [{"role": "user", "content": "x" * characters}]
    with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > 4096 maximum"):
        claude(live).messages.create(model="policy", max_tokens=9, messages=long)
    with pytest.raises(openai.BadRequestError, match="maximum context length is 4096 tokens") as refused:
        live.openai().chat.completions.create(model="policy", messages=long)
    assert refused.value.code == "context_length_exceeded"


# -------------------------------------------------------------------------------------------------------- other routes


def test_tokens_of_a_text_and_of_a_conversation_go_both_ways(live: Live) -> None:
    text = live.http.post("/tokenize", json={"model": "policy", "prompt": "Hi", "return_token_strs": True}).json()
    assert text == {"count": 2, "max_model_len": 4096, "tokens": [72, 105], "token_strs": ["H", "i"]}
    talk = live.http.post("/tokenize", json={"messages": ASK}).json()
    asked = {"model": "policy", "messages": ASK, "return_token_ids": True}
    assert talk["tokens"] == live.http.post(CHAT, json=asked).json()["prompt_token_ids"]
    back = live.http.post("/detokenize", json={"tokens": talk["tokens"]}).json()["prompt"]
    assert back == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    for path, wrong in (
        ("/tokenize", {}),
        ("/tokenize", {"prompt": "a", "messages": ASK}),
        ("/tokenize", {"messages": ["x"]}),
        ("/detokenize", {"tokens": [-1]}),
        ("/detokenize", {"tokens": [10**9]}),
        ("/detokenize", {"tokens": "x"}),
    ):
        assert live.http.post(path, json=wrong).status_code == 400, wrong
    assert live.http.post("/tokenize", json={"model": "none", "prompt": "a"}).status_code == 404


def test_what_is_absent_says_so_and_simple_probes_answer(live: Live) -> None:
    refused = live.http.post("/v1/embeddings", json={"model": "policy", "input": "Hi"})
    assert refused.status_code == 404 and "embeddings" in refused.json()["error"]["message"]
    assert refused.json()["error"]["code"] == "not_supported"
    assert (live.http.get("/health").status_code, live.http.get("/health").text) == (200, "")
    assert (live.http.head("/").status_code, live.http.head("/").text) == (200, "")


@pytest.mark.parametrize("kind", ["json", "multipart"])
def test_an_absent_api_is_named_whatever_the_method_path_and_body(live: Live, kind: str) -> None:
    body: dict[str, Any] = {"json": {"file": "x"}} if kind == "json" else {"files": {"file": b"x"}}
    for path in ("/v1/audio/transcriptions", "/v1/files", "/v1/files/file-1/content", "/episodes/ep_1/v1/embeddings"):
        for answer in (live.http.post(path, **body), live.http.get(path)):
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_supported"), path
    assert live.http.get("/v1/filesystem").json()["error"]["code"] == "not_found"
