"""Beyond plain chat: tools, several answers, answer formats, retries."""

from __future__ import annotations

import concurrent.futures
import json
import time
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from server.engines.settings import EngineSettings
from server.rendering.bytes_tokenizer import BytesTokenizer
from tests.support.dialects import ASK, PARIS
from tests.support.live import Live, script, serving, settings_for
from tests.support.tiny_model import make_tiny_model
from upturn.wire import EpisodeOpen

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def collected(stream: Any) -> tuple[dict[str, Any], str | None]:
    """Assemble a stream as agents do."""
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    calls: dict[int, dict[str, Any]] = {}
    finish = None
    for chunk in stream:
        for choice in chunk.choices:
            finish = choice.finish_reason or finish
            message["content"] += choice.delta.content or ""
            for part in choice.delta.tool_calls or []:
                call = calls.setdefault(part.index, {"type": "function", "function": {"name": "", "arguments": ""}})
                call["id"] = part.id or call["id"]
                call["function"]["name"] += part.function.name or ""
                call["function"]["arguments"] += part.function.arguments or ""
    return {**message, "tool_calls": list(calls.values())}, finish


@pytest.mark.parametrize("stream", [False, True])
def test_tools_are_called_and_answered_and_the_recorded_ids_continue_exactly(talkative: Live, stream: bool) -> None:
    opened = talkative.client.open_episode(EpisodeOpen())
    api = talkative.openai(key=opened.key)
    asked: dict[str, Any] = {"model": "policy", "tools": [WEATHER], "stream": stream}
    answer = api.chat.completions.create(messages=ASK, **asked)
    if stream:
        message, finish = collected(answer)
    else:
        message, finish = answer.choices[0].message.model_dump(), answer.choices[0].finish_reason
    assert (message["content"], finish) == ("I look.", "tool_calls")
    called = [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in message["tool_calls"]]
    assert called == [("weather", {"city": "Paris"}), ("weather", {"city": "Rome"})]
    assert len({c["id"] for c in message["tool_calls"]}) == 2
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": said}
        for call, said in zip(message["tool_calls"], ["rain", "sun"], strict=True)
    ]
    second = api.chat.completions.create(messages=[*ASK, message, *results], **asked)
    assert (collected(second)[0] if stream else second.choices[0].message.model_dump())["content"] == "Rain, and sun."
    one, two = talkative.client.episode(opened.id).turns
    assert two.token_ids[: len(one.token_ids)] == one.token_ids
    assert two.messages == results
    text = BytesTokenizer().decode(two.token_ids, skip_special=False)
    assert '"name": "weather"' in text.split("<|im_end|>")[0], "the tools are in the prompt"
    assert "<tool_response>\nrain\n</tool_response>" in text


def test_tool_choice_none_shows_calls_as_text(talkative: Live) -> None:
    answer = (
        talkative.openai()
        .chat.completions.create(model="policy", messages=ASK, tools=[WEATHER], tool_choice="none")
        .choices[0]
    )
    assert answer.finish_reason == "stop" and answer.message.tool_calls is None
    assert PARIS in answer.message.content


def test_different_tools_start_a_different_conversation(talkative: Live) -> None:
    opened = talkative.client.open_episode(EpisodeOpen())
    api = talkative.openai(key=opened.key)
    first = api.chat.completions.create(model="policy", messages=ASK).choices[0].message
    talk = [*ASK, {"role": "assistant", "content": first.content}, {"role": "user", "content": "And now?"}]
    api.chat.completions.create(model="policy", messages=talk, tools=[WEATHER])
    one, two = talkative.client.episode(opened.id).turns
    assert two.token_ids[: len(one.token_ids)] != one.token_ids, "a prompt with other tools is not continued"


@pytest.mark.parametrize("stream", [False, True])
def test_several_answers_are_several_turns_and_the_chosen_answer_continues(live: Live, stream: bool) -> None:
    opened = live.client.open_episode(EpisodeOpen(horizon=2))
    api = live.openai(key=opened.key)
    answer = api.chat.completions.create(model="policy", messages=ASK, n=3, stream=stream, seed=1)
    if stream:
        found = {}
        for chunk in answer:
            for choice in chunk.choices:
                found[choice.index] = found.get(choice.index, "") + (choice.delta.content or "")
    else:
        found = {choice.index: choice.message.content for choice in answer.choices}
        assert answer.usage.completion_tokens == 3 * len("Hello there.") + 3
    assert found == dict.fromkeys(range(3), "Hello there.")
    talk = [*ASK, {"role": "assistant", "content": found[1]}, {"role": "user", "content": "More"}]
    api.chat.completions.create(model="policy", messages=talk)
    turns = live.client.episode(opened.id).turns
    assert [turn.index for turn in turns] == [0, 1, 2, 3]
    assert turns[3].messages == talk[2:]
    with pytest.raises(openai.BadRequestError, match="2 turns"):
        api.chat.completions.create(model="policy", messages=[*talk, *ASK])


@pytest.mark.parametrize("named", [False, True])
def test_a_retry_is_answered_from_the_record(live: Live, named: bool) -> None:
    api = live.openai(key=live.client.open_episode(EpisodeOpen()).key if named else "sk-retry")
    first = api.chat.completions.with_raw_response.create(model="policy", messages=ASK, logprobs=True)
    again = api.chat.completions.with_raw_response.create(
        model="policy", messages=ASK, logprobs=True, extra_headers={"x-stainless-retry-count": "1"}
    )
    assert again.headers["x-turn-id"] == first.headers["x-turn-id"]
    one, two = first.parse(), again.parse()
    assert (one.id, one.model, one.usage) == (two.id, two.model, two.usage)
    assert one.choices[0].message == two.choices[0].message
    assert [t.logprob for t in one.choices[0].logprobs.content] == pytest.approx(
        [t.logprob for t in two.choices[0].logprobs.content]
    )
    assert len(live.client.episode(first.headers["x-episode-id"]).turns) == 1
    streamed, finish = collected(
        api.chat.completions.create(
            model="policy", messages=ASK, logprobs=True, stream=True, extra_headers={"x-stainless-retry-count": "2"}
        )
    )
    assert (streamed["content"], finish) == ("Hello there.", "stop"), "a different request is sampled"


def test_a_retry_of_a_request_in_progress_gets_all_its_answers(tmp_path: Path) -> None:
    model = script(tmp_path / "script", "Slowly said.", delay_s=0.05)
    with serving(settings_for(tmp_path / "data", model=str(model))) as live:
        with concurrent.futures.ThreadPoolExecutor() as pool:
            asked = {"model": "policy", "messages": ASK, "n": 3}
            first = pool.submit(live.openai().chat.completions.create, **asked)
            while not live.parts.turns.busy:
                time.sleep(0.01)
            again = live.openai().chat.completions.create(**asked, extra_headers={"x-stainless-retry-count": "1"})
        assert again.id == first.result().id and len(again.choices) == 3


def test_a_retry_of_an_ended_episode_still_gets_its_answer(live: Live) -> None:
    opened = live.client.open_episode(EpisodeOpen())
    api = live.openai(key=opened.key)
    first = api.chat.completions.create(model="policy", messages=ASK)
    live.client.close_episode(opened.id)
    again = api.chat.completions.create(model="policy", messages=ASK, extra_headers={"x-stainless-retry-count": "1"})
    assert again.id == first.id


def test_an_idempotency_key_stands_for_one_request(live: Live) -> None:
    api = live.openai()
    keyed = {"extra_headers": {"idempotency-key": "once"}}
    first = api.chat.completions.create(model="policy", messages=ASK, **keyed)
    assert api.chat.completions.create(model="policy", messages=ASK, **keyed).id == first.id
    with pytest.raises(openai.ConflictError) as refused:
        api.chat.completions.create(model="policy", messages=[{"role": "user", "content": "Other"}], **keyed)
    assert refused.value.code == "idempotency_conflict"
    other = live.openai(key="sk-other").chat.completions.create(model="policy", messages=ASK, **keyed)
    assert other.id != first.id, "idempotency keys are separate for each caller"


def test_an_equal_request_without_a_retry_mark_is_a_new_turn(live: Live) -> None:
    api = live.openai()
    assert (
        api.chat.completions.create(model="policy", messages=ASK).id
        != api.chat.completions.create(model="policy", messages=ASK).id
    )


def test_a_caller_can_forbid_training(live: Live) -> None:
    api = live.openai(default_headers={"x-no-train": "1"})
    raw = api.chat.completions.with_raw_response.create(model="policy", messages=ASK)
    assert not live.client.episode(raw.headers["x-episode-id"]).trainable
    opened = live.client.open_episode(EpisodeOpen())
    assert live.client.episode(opened.id).trainable
    live.openai(key=opened.key, default_headers={"x-no-train": "true"}).chat.completions.create(
        model="policy", messages=ASK
    )
    assert not live.client.episode(opened.id).trainable


class Weather(BaseModel):
    """The required format of an answer."""

    sunny: bool


@pytest.mark.vllm
def test_vllm_constrains_answers_to_a_schema_and_to_a_tool(tmp_path: Path) -> None:
    engine = EngineSettings(kind="vllm", dtype="float32", context_tokens=1024, kv_cache_gib=0.3, max_concurrent=8)
    model = make_tiny_model(tmp_path / "model")
    with serving(settings_for(tmp_path / "data", model=str(model), engine=engine)) as live:
        api = live.openai()
        raw = api.chat.completions.with_raw_response.parse(model="policy", messages=ASK, response_format=Weather)
        assert isinstance(raw.parse().choices[0].message.parsed, Weather)
        (turn,) = live.client.episode(raw.headers["x-episode-id"]).turns
        assert turn.untrainable_reason == "constrained_sampling"
        for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
            answer = api.chat.completions.create(model="policy", messages=ASK, tools=[WEATHER], tool_choice=choice)
            finish = "tool_calls" if choice == "required" else "stop"
            assert answer.choices[0].finish_reason == finish and answer.choices[0].message.content is None
            (call,) = answer.choices[0].message.tool_calls
            assert call.function.name == "weather" and json.loads(call.function.arguments)["city"] in ("Paris", "Rome")
        several = api.chat.completions.create(model="policy", messages=ASK, n=3, seed=5, max_tokens=8)
        assert len({choice.message.content for choice in several.choices}) == 3
