"""A recorded chat message as text for a page. Texts are shown as they are: nothing in them is markup."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
"""Roles with a style of their own; any other is shown by its name."""


@dataclass(frozen=True, slots=True)
class Called:
    """A tool call."""

    name: str
    arguments: str
    """Indented, if they are JSON."""
    id: str


@dataclass(frozen=True, slots=True)
class Said:
    """One message."""

    role: str
    text: str
    thoughts: str = ""
    """What the model wrote before its answer, if its form separates that."""
    calls: tuple[Called, ...] = ()
    answers: str = ""
    """Id of the tool call that the message answers."""
    name: str = ""

    @property
    def style(self) -> str:
        """Name of the role's style."""
        return self.role if self.role in ROLES else "other"


def said(message: Mapping[str, Any]) -> Said:
    """Return a message, whatever form its parts have."""
    role = message.get("role")
    return Said(
        role=role if isinstance(role, str) else "?",
        text=_text(message.get("content")),
        thoughts=_text(message.get("reasoning_content")),
        calls=tuple(_called(call) for call in message.get("tool_calls") or () if isinstance(call, Mapping)),
        answers=_text(message.get("tool_call_id")),
        name=_text(message.get("name")),
    )


def _text(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        texts = [part.get("text") if part.get("type") in ("text", "input_text") else part for part in content]
        return "\n".join(text if isinstance(text, str) else _json(text) for text in texts)
    return _json(content)


def _called(call: Mapping[str, Any]) -> Called:
    function = call.get("function")
    function = function if isinstance(function, Mapping) else {}
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return Called(_text(function.get("name")), arguments, _text(call.get("id")))
    return Called(_text(function.get("name")), _json(arguments), _text(call.get("id")))


def _json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, indent=2)
    except RecursionError:
        return "…"
