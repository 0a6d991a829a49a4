"""Forced tool calls: the schema that an answer must follow, and who may ask for one."""

from __future__ import annotations

from typing import Any

import pytest

from server.engines.protocol import SamplingParams
from server.errors import BadRequest
from server.recording.turn_request import TurnRequest
from server.rendering.bytes_tokenizer import CHAT_TEMPLATE, END_OF_TURN, BytesTokenizer
from server.rendering.call_schema import call_schema
from server.rendering.render import Renderer
from server.rendering.template import ChatTemplate

BYTES = BytesTokenizer()
PARAMETERS = {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}},
    {"type": "function", "function": {"name": "look"}},
]


def schema_of(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"enum": [name]}, "arguments": parameters},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def test_a_forced_call_needs_its_name_and_its_arguments_and_nothing_else() -> None:
    assert call_schema(TOOLS, "weather") == schema_of("weather", PARAMETERS)
    assert call_schema(TOOLS, "look") == schema_of("look", {"type": "object"})
    assert call_schema(TOOLS[:1], None) == schema_of("weather", PARAMETERS)
    both = [schema_of("weather", PARAMETERS), schema_of("look", {"type": "object"})]
    assert call_schema(TOOLS, None) == {"anyOf": both}


@pytest.mark.parametrize(("tools", "name"), [(TOOLS, "other"), ([], None), ([], "look")])
def test_a_call_of_a_tool_that_does_not_exist_is_a_bad_request(tools: list[dict[str, Any]], name: str | None) -> None:
    with pytest.raises(BadRequest, match="not among the tools") as refused:
        call_schema(tools, name)
    assert refused.value.param == "tool_choice"


def test_a_request_is_constrained_only_if_it_forces_a_call() -> None:
    def params(**fields: Any) -> SamplingParams:
        return TurnRequest([], SamplingParams(10, stop=("x",)), **fields).params(0, 100, (5,))

    assert params(tools=TOOLS).json_schema is None
    assert params(tools=TOOLS, call="look").json_schema == call_schema(TOOLS, "look")
    assert params(tools=TOOLS, call="").json_schema == call_schema(TOOLS, None)
    assert params(tools=TOOLS).stop == params(parallel_calls=False).stop == ("x",)
    assert params(tools=TOOLS, parallel_calls=False).stop == ("x", "</tool_call>")
    assert params().stop_ids == (5,)


def test_a_forced_call_begins_with_its_mark_and_ends_the_thoughts_before() -> None:
    renderer = Renderer(ChatTemplate(BYTES, CHAT_TEMPLATE, END_OF_TURN))
    assert BYTES.decode(renderer.forced_call(after_reasoning=False)) == "<tool_call>\n"
    assert BYTES.decode(renderer.forced_call(after_reasoning=True)) == "</think>\n\n<tool_call>\n"
