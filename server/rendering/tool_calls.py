"""Messages and tools in the shape that chat templates expect, with or without support for tools.

A template that reads `tools` receives them unchanged. For any other template, `in_plain_messages` writes tools, calls
and results into ordinary messages by the Hermes convention, `<tool_call>` around JSON, so that every instruct model can
be asked to call tools. `answers.py` reads the calls back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"
THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
MARKS = frozenset({CALL_OPEN, CALL_CLOSE, THINK_OPEN, THINK_CLOSE})
"""Marks that structure an answer's text."""
PROMPT_MARKS = MARKS | {"<tools>", "</tools>", "<tool_response>", "</tool_response>"}
"""Marks in prompts of `in_plain_messages`."""
Messages = Sequence[dict[str, Any]]
Tools = Sequence[dict[str, Any]]
Options = Mapping[str, Any]
"""A request's `chat_template_kwargs`: variables for the chat template in addition to messages and tools."""
NO_OPTIONS: Options = MappingProxyType({})

_INTRODUCTION = (
    "You can call tools. Each is described by one line of JSON:\n<tools>\n{tools}\n</tools>\n"
    "To call a tool, answer with its name and arguments as JSON between tags, once for each call:\n"
    '<tool_call>\n{{"name": "tool", "arguments": {{"argument": "value"}}}}\n</tool_call>'
)


def normalize(messages: Messages) -> list[dict[str, Any]]:
    """Return the messages as templates expect them: content is text, arguments of calls are objects."""
    return [with_parsed_arguments(with_text_content(message)) for message in messages]


def with_text_content(message: dict[str, Any]) -> dict[str, Any]:
    """Return the message with list content joined: templates of text models expect strings only."""
    content = message.get("content")
    if isinstance(content, list):
        return {**message, "content": "".join(part.get("text", "") for part in content)}
    return {**message, "content": content if content is not None else ""}


def in_plain_messages(messages: Messages, tools: Tools) -> list[dict[str, Any]]:
    """Return a normalized conversation with tools as plain messages without tools."""
    plain = [_plain(message) for message in messages]
    if not tools:
        return plain
    lines = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    introduction = _INTRODUCTION.format(tools=lines)
    if plain and plain[0]["role"] == "system":
        return [{**plain[0], "content": f"{plain[0]['content']}\n\n{introduction}"}, *plain[1:]]
    return [{"role": "system", "content": introduction}, *plain]


def with_parsed_arguments(message: dict[str, Any]) -> dict[str, Any]:
    """Return the message with the arguments of its tool calls as objects, which templates expect."""
    calls = message.get("tool_calls")
    if not calls:
        return message
    return {
        **message,
        "tool_calls": [
            {**call, "function": {**call["function"], "arguments": _parsed(call["function"].get("arguments"))}}
            for call in calls
        ],
    }


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    calls = message.get("tool_calls")
    if not calls:
        return message
    written = [f"{CALL_OPEN}\n{_written(call['function'])}\n{CALL_CLOSE}" for call in calls]
    return {"role": message["role"], "content": "\n".join([*filter(None, [message["content"]]), *written])}


def _written(function: dict[str, Any]) -> str:
    called = {"name": function.get("name"), "arguments": function.get("arguments")}
    return json.dumps(called, ensure_ascii=False)


def _parsed(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return arguments
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
