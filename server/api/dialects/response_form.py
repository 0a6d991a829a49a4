"""The form of a response: its fields, its output items, and the items of its input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from server.api.dialects.answers.blocks import Block, blocks_of
from server.api.dialects.responses_request import INSTRUCTIONS, ResponsesRequest
from server.api.dialects.tools.custom import input_of
from server.api.dialects.tools.responses_tools import Original

PREFIX = "resp_"
Originals = Mapping[str, Original]
_AS_CREATED: dict[str, Any] = {
    "object": "response",
    "status": "in_progress",
    "error": None,
    "incomplete_details": None,
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "output": [],
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "reasoning": {"effort": None, "summary": None},
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "truncation": "disabled",
    "usage": None,
    "user": None,
}
_ECHOED = frozenset(_AS_CREATED.keys() & ResponsesRequest.model_fields.keys())
"""Fields of the request that the response repeats."""


def common_fields(turn_id: str, model: str, created_at: float, body: ResponsesRequest | None = None) -> dict[str, Any]:
    """Return a response at its start, with the fields of its request."""
    asked = body.model_dump(mode="json", by_alias=True, exclude_none=True, include=set(_ECHOED)) if body else {}
    return {**_AS_CREATED, **asked, "id": f"{PREFIX}{turn_id}", "created_at": created_at, "model": model}


class Output:
    """The output items of one response.

    Args:
        turn_id: the turn, whose id is a part of the items' ids.
        originals: the caller's names of tools by the model's.
    """

    def __init__(self, turn_id: str, originals: Originals = MappingProxyType({})) -> None:
        self._turn_id = turn_id
        self._originals = originals

    def id_of(self, block: Block) -> str:
        """Return an item's id."""
        kind = {"content": "msg", "reasoning": "rs", "call": "fc"}[block.kind]
        return f"{'ctc' if self.is_custom(block) else kind}_{self._turn_id}_{block.index}"

    def is_custom(self, block: Block) -> bool:
        """Return whether a block is a call of a custom tool."""
        return block.call is not None and block.call.name in self._originals and self._originals[block.call.name].custom

    def part(self, block: Block) -> dict[str, Any]:
        """Return a block as the part of an item, with its text so far."""
        if block.kind == "reasoning":
            return {"type": "reasoning_text", "text": block.text}
        return {"type": "output_text", "text": block.text, "annotations": [], "logprobs": block.logprobs}

    def item(self, block: Block, status: str = "completed") -> dict[str, Any]:
        """Return a block as an output item, with its text so far."""
        item: dict[str, Any] = {"id": self.id_of(block), "status": status}
        if block.kind == "reasoning":
            return {**item, "type": "reasoning", "summary": [], "content": [self.part(block)]}
        if block.call is None:
            return {**item, "type": "message", "role": "assistant", "content": [self.part(block)]}
        original = self._originals.get(block.call.name)
        named = {"call_id": block.call.id, "name": original.name if original else block.call.name}
        if original is not None and original.namespace:
            named["namespace"] = original.namespace
        if self.is_custom(block):
            return {**item, "type": "custom_tool_call", **named, "input": input_of(block.text) if block.text else ""}
        return {**item, "type": "function_call", **named, "arguments": block.text}

    def ended(self, parts: Sequence[Block], finish_reason: str, prompt: int, completion: int) -> dict[str, Any]:
        """Return the fields of a response that are known at its end."""
        status = "completed" if finish_reason == "stop" else "incomplete"
        output = [self.item(block) for block in parts]
        output[-1]["status"] = status
        return {
            "status": status,
            "output": output,
            "incomplete_details": {"reason": "max_output_tokens"} if finish_reason == "length" else None,
            "usage": {
                "input_tokens": prompt,
                "output_tokens": completion,
                "total_tokens": prompt + completion,
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens_details": {"reasoning_tokens": 0},
            },
        }


def input_items(turn_id: str, messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the items of a response's input, which are the messages before its answer, in order."""
    items: list[dict[str, Any]] = []
    for position, message in enumerate(messages):
        origin = f"{turn_id}_in{position}"
        content = message.get("content") or ""
        text = content if isinstance(content, str) else "".join(str(part.get("text", "")) for part in content)
        if message["role"] == "assistant":
            items += [Output(origin).item(block) for block in blocks_of({**message, "content": text})]
        elif message["role"] == "tool":
            called = {"call_id": message.get("tool_call_id"), "output": text}
            items.append({"id": f"fco_{origin}", "type": "function_call_output", "status": "completed", **called})
        elif message.get("id") != INSTRUCTIONS:
            part = {"type": "input_text", "text": text}
            said = {"role": message["role"], "status": "completed", "content": [part]}
            items.append({"id": f"msg_{origin}", "type": "message", **said})
    return items
