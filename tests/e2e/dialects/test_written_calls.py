"""Whatever the model writes, its turn is answered and recorded, in every dialect."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from server.rendering.answers import AnswerReader
from tests.support.dialects import ASK, SCHEMA, claude, extends
from tests.support.live import Live, script, serving, settings_for
from upturn.wire import EpisodeOpen

HALF = {"city": "\ud83d </tool_call>", "\ude00": ["a\\\ud83d"]}
"""Halves of surrogate pairs, which UTF-8 cannot encode."""
CALL = f'I look. <tool_call>\n{{"name": "weather", "arguments": {json.dumps(HALF)}}}\n</tool_call> \0 And so.'
WEATHER: dict[str, Any] = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("written")
    model = script(folder / "script", CALL, "It rains.")
    with serving(settings_for(folder / "data", model=str(model))) as running:
        yield running


def by_chat(live: Live, key: str, stream: bool) -> None:
    api, talk = live.openai(key=key), list[Any](ASK)
    if stream:
        with api.chat.completions.stream(model="policy", messages=talk, tools=[WEATHER]) as events:
            message = events.get_final_completion().choices[0].message
    else:
        message = api.chat.completions.create(model="policy", messages=talk, tools=[WEATHER]).choices[0].message
    (call,) = message.tool_calls or []
    assert json.loads(call.function.arguments) == HALF and message.content == "I look.\n\0 And so."
    talk += [message.model_dump(exclude_none=True), {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    answer = api.chat.completions.create(model="policy", messages=talk, tools=[WEATHER])
    assert answer.choices[0].message.content == "It rains."


def by_messages(live: Live, key: str, stream: bool) -> None:
    api, talk = claude(live, key), list[Any](ASK)
    asked: dict[str, Any] = {
        "model": "policy",
        "max_tokens": 500,
        "tools": [{"name": "weather", "input_schema": SCHEMA}],
    }
    if stream:
        with api.messages.stream(messages=talk, **asked) as events:
            message = events.get_final_message()
    else:
        message = api.messages.create(messages=talk, **asked)
    (call,) = [block for block in message.content if block.type == "tool_use"]
    # Anthropic's client can neither read half a pair in a stream nor send it back.
    assert call.input == {"city": "\ufffd </tool_call>", "\ufffd": ["a\\\ufffd"]}
    sent = [{k: v for k, v in b.model_dump().items() if v is not None} for b in message.content]
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "rain"}
    talk += [{"role": "assistant", "content": sent}, {"role": "user", "content": [result]}]
    (block,) = api.messages.create(messages=talk, **asked).content
    assert block.type == "text" and block.text == "It rains."


def by_responses(live: Live, key: str, stream: bool) -> None:
    api = live.openai(key=key)
    asked: dict[str, Any] = {
        "model": "policy",
        "tools": [{"type": "function", "name": "weather", "parameters": SCHEMA}],
    }
    if stream:
        with api.responses.stream(input=ASK, **asked) as events:
            response = events.get_final_response()
    else:
        response = api.responses.create(input=ASK, **asked)
    (call,) = [item for item in response.output if item.type == "function_call"]
    assert json.loads(call.arguments) == HALF
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    assert api.responses.create(input=[result], previous_response_id=response.id, **asked).output_text == "It rains."


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("dialect", [by_chat, by_messages, by_responses])
def test_a_call_with_half_a_surrogate_pair_is_answered_recorded_and_continued(
    live: Live, dialect: Any, stream: bool
) -> None:
    opened = live.client.open_episode(EpisodeOpen())
    dialect(live, opened.key, stream)
    assert len(extends(live, opened.id)) == 2


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_turn_that_fails_in_the_server_counts_nothing_and_ends_with_an_error_in_the_clients_form(
    live: Live, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = live.client.open_episode(EpisodeOpen(horizon=1))
    api = live.openai(key=opened.key)

    def fail(self: AnswerReader) -> None:
        raise RuntimeError("a fault of the server")

    def ask() -> str:
        answer = api.chat.completions.create(model="policy", messages=ASK, stream=stream)
        if not stream:
            return answer.choices[0].message.content
        return "".join(chunk.choices[0].delta.content or "" for chunk in answer)

    with monkeypatch.context() as patch:
        patch.setattr(AnswerReader, "finish", fail)
        with pytest.raises(openai.APIError) as error:
            ask()
    assert error.value.code == "internal_error"
    assert live.client.episode(opened.id).turns == []
    assert ask(), "the turn that failed was not counted against the horizon"
