"""Chat messages in OpenAI's form."""

from __future__ import annotations

from typing import Any

Message = dict[str, Any]
"""A chat message in OpenAI's form."""


def result_messages(message: Message, observation: str) -> list[Message]:
    """Return the messages that answer an assistant's message: one result per call, or a user message without calls.

    Only the first call of a message is executed; the results of further calls say so.
    """
    calls = message.get("tool_calls") or []
    if not calls:
        return [{"role": "user", "content": observation}]
    first, *others = ({"role": "tool", "tool_call_id": call["id"], "content": observation} for call in calls)
    return [first, *({**other, "content": "Not done: one call at a time."} for other in others)]
