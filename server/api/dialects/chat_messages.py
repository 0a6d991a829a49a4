"""Messages of a chat request in the form that the rest of the server reads: text parts, and calls of functions.

Clients send content in several spellings, calls of custom tools, arguments as objects, and OpenAI's older
`function_call`. What a chat template would not read must not vanish silently.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from server.api.dialects.tools.custom import arguments_of
from server.errors import BadRequest

_TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Field that holds the text of each kind of text part."""
_THOUGHTS = frozenset({"thinking", "reasoning", "reasoning_text"})


def plain_messages(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages with every spelling of a text or a call replaced by its plain form.

    Raises:
        BadRequest: a `function_call` is not one.
    """
    return [_with_calls(_with_parts(message), position) for position, message in enumerate(messages)]


def prefilled(messages: Sequence[dict[str, Any]], *, wanted: bool) -> str:
    """Return the beginning of the answer that the caller wrote as the last message; empty if there is none.

    Args:
        messages: plain messages.
        wanted: the request asks for it; otherwise the last message can ask by `prefix` or `partial`.

    Raises:
        BadRequest: the last message cannot be continued.
    """
    last = messages[-1]
    asks = last.get("role") == "assistant" and (last.get("prefix") is True or last.get("partial") is True)
    if not wanted and not asks:
        return ""
    text = text_of(last)
    if last.get("role") != "assistant" or last.get("tool_calls") or not text:
        raise BadRequest("only an assistant's text at the end can be continued", param="messages")
    if len(messages) == 1:
        raise BadRequest("an answer that is to be continued needs a message before it", param="messages")
    return text


def text_of(message: dict[str, Any]) -> str:
    """Return a message's text."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _with_parts(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if not isinstance(content, list) or all(isinstance(p, dict) and p.get("type") == "text" for p in content):
        return message
    kept: list[Any] = []
    thoughts: list[str] = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str):
            kept.append(part)
        elif kind in _TEXTS and isinstance(part.get(_TEXTS[kind]), str):
            kept.append({"type": "text", "text": part[_TEXTS[kind]]})
        elif kind in _THOUGHTS and message.get("role") == "assistant":
            thoughts += [said for name in (kind, "text") if isinstance(said := part.get(name), str)]
        elif kind != "redacted_thinking" or message.get("role") != "assistant":
            kept.append(part)
    changed = {**message, "content": kept}
    if thoughts and not message.get("reasoning_content"):
        changed["reasoning_content"] = "".join(thoughts)
    return changed


def _with_calls(message: dict[str, Any], position: int) -> dict[str, Any]:
    calls = message.get("tool_calls")
    if message.get("role") == "function":
        return {**message, "role": "tool", "tool_call_id": message.get("tool_call_id") or f"call_{position - 1}"}
    if (legacy := message.get("function_call")) is not None:
        if not isinstance(legacy, dict) or not isinstance(legacy.get("name"), str):
            raise BadRequest(f"messages[{position}]: function_call has no name", param=f"messages[{position}]")
        message = {name: value for name, value in message.items() if name != "function_call"}
        calls = calls or [{"id": f"call_{position}", "type": "function", "function": legacy}]
    if not isinstance(calls, list):
        return message
    return {**message, "tool_calls": [_call(call) for call in calls]}


def _call(call: Any) -> Any:
    """Return a call of a function whose arguments are text; anything that is not a call is returned unchanged."""
    if not isinstance(call, dict):
        return call
    custom = call.get("custom")
    if call.get("type") == "custom" and isinstance(custom, dict) and isinstance(custom.get("input"), str):
        called = {"name": custom.get("name"), "arguments": arguments_of(custom["input"])}
        return {"id": call.get("id"), "type": "function", "function": called}
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), dict):
        return call
    return {**call, "function": {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}}
