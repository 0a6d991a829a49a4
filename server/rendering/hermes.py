"""The Hermes answer form, `<tool_call>` around JSON: for every model without a family of its own."""

from __future__ import annotations

import json

from server.rendering.model_family import ParsedCall, TaggedCalls, TaggedFamily
from server.rendering.tool_calls import CALL_CLOSE, CALL_OPEN


def parse_call(text: str) -> ParsedCall:
    """Parse `{"name": ..., "arguments": {...}}`."""
    call = json.loads(text)
    name, arguments = call["name"], call.get("arguments", {})
    written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return ParsedCall(str(name), written)


HERMES_CALLS = TaggedCalls(CALL_OPEN, CALL_CLOSE, parse_call)
HERMES = TaggedFamily("template", CALL_OPEN, CALL_CLOSE, parse_call, json_calls=True)
"""Named after the setting `renderer = template`: the model's own chat template, with Hermes calls."""
FAMILIES = (HERMES,)
