"""OpenAI's `POST /v1/responses`, whole and as server-sent events, and `GET` of a recorded response.

The requests are in `responses_request.py`. A response is a turn: its id contains the turn's, and the earlier
conversation is read from the record.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from itertools import count
from typing import Any

from fastapi.responses import JSONResponse, Response

from server import heavy
from server.api.dialects.blocks import Block, Kind, blocks, blocks_of
from server.api.dialects.call import Call, CallOf
from server.api.dialects.conversation import Conversation, Conversations, ConversationsOf
from server.api.dialects.dialect import Dialect
from server.api.dialects.responses_request import INSTRUCTIONS, ResponsesRequest
from server.api.dialects.streams import Pieces, event, merged, sse
from server.errors import NotFound, UpturnError
from server.recording.conversation import Past

dialect = Dialect("responses")

_PREFIX = "resp_"
_ID = re.compile(rf"{_PREFIX}(\w{{1,64}})", re.ASCII)
_GROWTH: dict[Kind, str] = {
    "content": "response.output_text",
    "reasoning": "response.reasoning_text",
    "call": "response.function_call_arguments",
}
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


@dialect.post("/v1/responses", may_stream=True)
async def respond(body: ResponsesRequest, conversations: ConversationsOf, call: CallOf) -> Response:
    """Answer a conversation in the form of the Responses API. Its episode is found as for chat."""
    before = await _before(conversations, call, body.previous_response_id)
    items = 1 if isinstance(body.input, str) else len(body.input)
    chat = await heavy.run(call.weight(len(before) + items), lambda: body.chat(before))
    conversation = await conversations.begin(replace(call, returned=body.returned()), chat)
    turn = conversation.turns[0]
    pieces = await merged(conversation) if body.stream else None
    common = _common_fields(turn.id, f"{conversation.policy}@{turn.version}", time.time(), body)
    if pieces is not None:
        return sse(conversation, _stream(common, conversation, pieces))
    (answer,) = await conversation.answers()
    whole = {
        **common,
        "model": f"{conversation.policy}@{answer.version}",
        **_ended(turn.id, blocks_of(answer.message), answer.finish_reason, answer.prompt_tokens, len(answer.token_ids)),
    }
    return JSONResponse(whole, headers={**conversation.headers, "x-policy-version": str(answer.version)})


@dialect.get("/v1/responses/{response_id}")
async def get_response(response_id: str, conversations: ConversationsOf, call: CallOf) -> dict[str, Any]:
    """Return a recorded response. Of its request, only instructions and temperature are recorded."""
    past = await _past(conversations, call, response_id)
    turn, first = past.turn, past.messages[0]
    return {
        **_common_fields(turn.id, f"{conversations.policy}@{turn.policy_version}", turn.created_at),
        "instructions": first["content"] if first.get("id") == INSTRUCTIONS else None,
        "temperature": turn.temperature,
        **_ended(turn.id, blocks_of(turn.answer), turn.finish_reason, turn.prompt_tokens, turn.completion_tokens),
    }


async def _before(conversations: Conversations, call: Call, response_id: str | None) -> list[dict[str, Any]]:
    """Return the conversation up to and including a response."""
    if response_id is None:
        return []
    past = await _past(conversations, call, response_id)
    return [*past.messages, past.turn.answer]


async def _past(conversations: Conversations, call: Call, response_id: str) -> Past:
    turn_id = _ID.fullmatch(response_id)
    past = await conversations.past(call, turn_id[1]) if turn_id else None
    if past is None:
        raise NotFound(f"response {response_id!r} not found", code="response_not_found")
    return past


async def _stream(common: dict[str, Any], conversation: Conversation, pieces: Pieces) -> AsyncGenerator[str, None]:
    """Yield the events of one response."""
    numbers, turn = count(), conversation.turns[0]

    def say(kind: str, **fields: Any) -> str:
        return event({"type": kind, "sequence_number": next(numbers), **fields}, kind)

    yield say("response.created", response=common)
    yield say("response.in_progress", response=common)
    output: list[Block] = []
    try:
        async for stage, block, text in blocks(pieces):
            where: dict[str, Any] = {"output_index": block.index, "item_id": _id(turn.id, block)}
            inside = where if block.kind == "call" else {**where, "content_index": 0}
            more: dict[str, Any] = {"logprobs": []} if block.kind == "content" else {}
            if stage == "opens":
                output.append(block)
                item = {**_item(turn.id, block, "in_progress"), **({} if block.call else {"content": []})}
                yield say("response.output_item.added", output_index=block.index, item=item)
                if block.call is None:
                    yield say("response.content_part.added", **inside, part=_part(block))
            elif stage == "grows":
                yield say(f"{_GROWTH[block.kind]}.delta", **inside, **more, delta=text)
            else:
                named = "arguments" if block.call else "text"
                yield say(f"{_GROWTH[block.kind]}.done", **inside, **more, **{named: block.text})
                if block.call is None:
                    yield say("response.content_part.done", **inside, part=_part(block))
                yield say("response.output_item.done", output_index=block.index, item=_item(turn.id, block))
        (answer,) = await conversation.answers()
        ended = _ended(turn.id, output, answer.finish_reason, answer.prompt_tokens, len(answer.token_ids))
        whole = {**common, "model": f"{conversation.policy}@{answer.version}", **ended}
        yield say(f"response.{ended['status']}", response=whole)
    except UpturnError as error:
        failure = {"code": "server_error", "message": error.message}
        yield say("response.failed", response={**common, "status": "failed", "error": failure})


def _common_fields(turn_id: str, model: str, created_at: float, body: ResponsesRequest | None = None) -> dict[str, Any]:
    """Return a response at its start, with the fields of its request."""
    asked = body.model_dump(mode="json", by_alias=True, exclude_none=True, include=set(_AS_CREATED)) if body else {}
    return {**_AS_CREATED, **asked, "id": f"{_PREFIX}{turn_id}", "created_at": created_at, "model": model}


def _ended(turn_id: str, parts: list[Block], finish_reason: str, prompt: int, completion: int) -> dict[str, Any]:
    """Return the fields of a response that are known at its end."""
    status = "completed" if finish_reason == "stop" else "incomplete"
    output = [_item(turn_id, block) for block in parts]
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


def _id(turn_id: str, block: Block) -> str:
    return f"{ {'content': 'msg', 'reasoning': 'rs', 'call': 'fc'}[block.kind] }_{turn_id}_{block.index}"


def _part(block: Block) -> dict[str, Any]:
    if block.kind == "reasoning":
        return {"type": "reasoning_text", "text": block.text}
    return {"type": "output_text", "text": block.text, "annotations": [], "logprobs": []}


def _item(turn_id: str, block: Block, status: str = "completed") -> dict[str, Any]:
    """Return a block as an output item, with its text so far."""
    item: dict[str, Any] = {"id": _id(turn_id, block), "status": status}
    if block.kind == "reasoning":
        return {**item, "type": "reasoning", "summary": [], "content": [_part(block)]}
    if block.call is None:
        return {**item, "type": "message", "role": "assistant", "content": [_part(block)]}
    return {**item, "type": "function_call", "call_id": block.call.id, "name": block.call.name, "arguments": block.text}
