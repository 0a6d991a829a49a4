"""A forced tool call accepts exactly what the tool's own schema accepts, references included."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel

from server.errors import BadRequest
from server.rendering.call_schema import call_schema

jsonschema = pytest.importorskip("jsonschema")


class Address(BaseModel):
    """Refers to itself."""

    street: str
    next: Address | None = None


class Person(BaseModel):
    """Refers to another model."""

    home: Address
    others: list[Address] = []


class Node(BaseModel):
    """Is itself a reference."""

    children: dict[str, Node] = {}


TRICKY: dict[str, Any] = {
    "$id": "https://example.org/tool",
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "definitions": {"a/b": {"const": {"$ref": "#/not/a/reference"}}, "$ref": {"type": "integer"}},
    "properties": {
        "$ref": {"$ref": "#/definitions/a~1b"},
        "default": {"$ref": "#/definitions/$ref"},
        "again": {"$ref": "#"},
    },
    "additionalProperties": False,
}
PLAIN: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
HOME = {"home": {"street": "a", "next": {"street": "b", "next": None}}}
CASES: list[tuple[dict[str, Any], list[Any], list[Any]]] = [
    (Person.model_json_schema(), [HOME, {**HOME, "others": [{"street": "c"}]}], [{}, {"home": {"street": 1}}]),
    (Node.model_json_schema(), [{}, {"children": {"x": {"children": {}}}}], [{"children": {"x": {"children": 1}}}]),
    (
        TRICKY,
        [{"$ref": {"$ref": "#/not/a/reference"}}, {"default": 1}, {"again": {"again": {}}}],
        [{"$ref": 1}, {"default": "1"}, {"again": {"default": "1"}}],
    ),
    (PLAIN, [{"city": "Rome"}], [{}]),
]


def tool(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def accepts(schema: dict[str, Any], name: str, arguments: Any) -> bool:
    return jsonschema.Draft202012Validator(schema).is_valid({"name": name, "arguments": arguments})


@pytest.mark.parametrize(("parameters", "valid", "invalid"), CASES)
def test_a_forced_call_takes_what_its_tool_takes_alone_and_among_others(
    parameters: dict[str, Any], valid: list[Any], invalid: list[Any]
) -> None:
    others = [tool(f"other{number}", other) for number, (other, _, _) in enumerate(CASES)]
    for schema in (
        call_schema([tool("it", parameters)], "it"),
        call_schema([*others, tool("it", parameters)], "it"),
        call_schema([*others, tool("it", parameters)], None),
    ):
        assert all(accepts(schema, "it", arguments) for arguments in valid)
        assert not any(accepts(schema, "it", arguments) for arguments in invalid)
        assert not accepts(schema, "that", valid[0])


@pytest.mark.parametrize("name", ["it", None])
def test_the_engines_grammars_accept_a_schema_with_references(name: str | None) -> None:
    llguidance, xgrammar = pytest.importorskip("llguidance"), pytest.importorskip("xgrammar")
    tools = [tool("it", Person.model_json_schema()), tool("that", Node.model_json_schema()), tool("plain", PLAIN)]
    schema = json.dumps(call_schema(tools, name))
    assert xgrammar.Grammar.from_json_schema(schema)
    matcher = llguidance.LLMatcher
    assert not matcher.validate_grammar(matcher.grammar_from_json_schema(schema))


def test_a_schema_without_references_stays_where_it_is() -> None:
    assert call_schema([tool("it", PLAIN)], "it")["properties"]["arguments"] == PLAIN


def test_a_choice_of_an_unknown_tool_is_refused() -> None:
    with pytest.raises(BadRequest, match="not among the tools"):
        call_schema([tool("it", PLAIN)], "that")
