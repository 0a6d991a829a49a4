"""The Hermes answer form, `<tool_call>` around JSON: for every model without a family of its own."""

from __future__ import annotations

from server.rendering.json_text import arguments_of, read_json
from server.rendering.model_family import ParsedCall, TaggedCalls, TaggedFamily
from server.rendering.tool_calls import CALL_CLOSE, CALL_OPEN


def parse_call(text: str) -> ParsedCall:
    """Parse `{"name": ..., "arguments": {...}}`; some models write `parameters`, as in a tool's description."""
    call = read_json(text)
    arguments = call.get("arguments")
    return ParsedCall(call["name"], arguments_of(call.get("parameters") if arguments is None else arguments))


HERMES_CALLS = TaggedCalls(CALL_OPEN, CALL_CLOSE, parse_call)
HERMES = TaggedFamily("template", CALL_OPEN, CALL_CLOSE, parse_call, json_calls=True)
"""Named after the setting `renderer = template`: the model's own chat template, with Hermes calls."""
FAMILIES = (HERMES,)
