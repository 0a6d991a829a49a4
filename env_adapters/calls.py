"""Tool calls as actions: reads a call's arguments and turns it into the text that `Environment.step` understands."""

from __future__ import annotations

import json
from typing import Any

from env_adapters.protocol import EnvironmentSpec

Message = dict[str, Any]
"""A chat message in OpenAI's form."""


def text_of_call(spec: EnvironmentSpec, name: str, arguments: str | dict[str, Any]) -> str:
    """Return a tool call as text that `step` understands.

    Args:
        spec: the environment whose tool is called.
        name: the tool's name.
        arguments: an object, or its JSON.

    Raises:
        ValueError: the tool does not exist, or its arguments do not fit.
    """
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError as error:
            raise ValueError(f"the arguments of {name} are not JSON: {error}") from error
    if not isinstance(arguments, dict):
        raise ValueError(f"the arguments of {name} are not an object")
    return spec.text_of(name, arguments)


def result_messages(message: Message, observation: str) -> list[Message]:
    """Return the messages that answer an assistant's message: one result per call, or a user message without calls.

    Only the first call of a message is executed; the results of further calls say so.
    """
    calls = message.get("tool_calls", [])
    if not calls:
        return [{"role": "user", "content": observation}]
    first, *others = ({"role": "tool", "tool_call_id": call["id"], "content": observation} for call in calls)
    return [first, *({**other, "content": "Not done: one call at a time."} for other in others)]
