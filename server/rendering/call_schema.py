"""The JSON schema of a forced tool call: the tools' own schemas inside one for the call."""

from __future__ import annotations

from typing import Any

from server.errors import BadRequest
from server.rendering.tool_calls import Tools

_DATA = frozenset({"const", "enum", "default", "examples"})
"""Keywords whose values are not schemas."""
_NAMED = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"})
"""Keywords whose values are schemas by name."""
_OF_A_DOCUMENT = frozenset({"$id", "$schema"})
"""Keywords that would make a part of a schema a document of its own, in which references begin anew."""


def call_schema(tools: Tools, name: str | None) -> dict[str, Any]:
    """Return the JSON schema of a call to the named tool, or to any tool if `name` is None.

    A schema with references to its own parts, such as Pydantic's `#/$defs/Address`, is moved to the `$defs` of the
    whole, and its references with it.

    Raises:
        BadRequest: no tool has that name.
    """
    wanted = [tool["function"] for tool in tools if name in (None, tool["function"]["name"])]
    if not wanted:
        raise BadRequest(f"tool_choice names {name!r}, which is not among the tools", param="tool_choice")
    moved: dict[str, Any] = {}
    choices = []
    for position, tool in enumerate(wanted):
        arguments = tool.get("parameters") or {"type": "object"}
        place = f"#/$defs/{position}"
        within = _moved({key: value for key, value in arguments.items() if key not in _OF_A_DOCUMENT}, place)
        if within != arguments:
            moved[str(position)], arguments = within, {"$ref": place}
        choices.append(
            {
                "type": "object",
                "properties": {"name": {"enum": [tool["name"]]}, "arguments": arguments},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    whole = choices[0] if len(choices) == 1 else {"anyOf": choices}
    return {**whole, "$defs": moved} if moved else whole


def _moved(schema: Any, place: str) -> Any:
    """Return a schema whose references to itself lead to `place`."""
    if isinstance(schema, list):
        return [_moved(item, place) for item in schema]
    if not isinstance(schema, dict):
        return schema
    moved: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "$ref" and isinstance(value, str) and (value == "#" or value.startswith("#/")):
            moved[key] = place + value[1:]
        elif key in _NAMED and isinstance(value, dict):
            moved[key] = {name: _moved(item, place) for name, item in value.items()}
        else:
            moved[key] = value if key in _DATA else _moved(value, place)
    return moved
