"""Anthropic's `POST /v1/messages`, whole and as server-sent events, its token count, and its errors.

The requests are in `messages_request.py`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

from fastapi.responses import Response

from server import heavy
from server.api.access.errors import ErrorForm
from server.api.dialects.answering import Conversation
from server.api.dialects.answers.blocks import Block, blocks, blocks_of
from server.api.dialects.answers.ends import finish_reason, stop_reason
from server.api.dialects.call import CallOf
from server.api.dialects.conversation import Conversations, ConversationsOf
from server.api.dialects.dialect import Dialect
from server.api.dialects.fields.check import check
from server.api.dialects.messages_request import CountRequest, MessagesRequest
from server.api.dialects.streams import Pieces, event, merged, sse
from server.errors import (
    ContextTooLong,
    Forbidden,
    InvalidKey,
    NotFound,
    RateLimited,
    TooLarge,
    Unavailable,
    UpturnError,
)
from server.recording.turn import Answer
from server.rendering.json_text import read_json, without_halves, write_json
from upturn.logs import request_id

_ERROR_TYPES: dict[type[UpturnError], str] = {
    InvalidKey: "authentication_error",
    Forbidden: "permission_error",
    NotFound: "not_found_error",
    TooLarge: "request_too_large",
    RateLimited: "rate_limit_error",
    Unavailable: "overloaded_error",
}


def _error(error: UpturnError) -> dict[str, Any]:
    """Return Anthropic's error body, which also contains this server's `code`."""
    otherwise = "invalid_request_error" if error.type == "invalid_request_error" else "api_error"
    kind = next((name for known, name in _ERROR_TYPES.items() if isinstance(error, known)), otherwise)
    message = error.message
    if isinstance(error, ContextTooLong) and error.tokens is not None:  # In Anthropic's words, which agents look for.
        message = f"prompt is too long: {error.tokens} tokens > {error.most} maximum"
    body = {"type": kind, "message": message, "code": error.code}
    return {"type": "error", "error": body, "request_id": request_id.get()}


_ERROR_SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["type", "error"],
    "properties": {
        "type": {"const": "error"},
        "request_id": {"type": ["string", "null"]},
        "error": {
            "type": "object",
            "additionalProperties": False,
            "required": ["type", "message"],
            "properties": {
                "type": {"type": "string"},
                "message": {"type": "string"},
                "code": {"type": ["string", "null"]},
            },
        },
    },
}
dialect = Dialect("messages", ErrorForm(_error, _ERROR_SCHEMA))


@dialect.post("/v1/messages", may_stream=True)
async def messages(body: MessagesRequest, conversations: ConversationsOf, call: CallOf) -> Response:
    """Answer a conversation in Anthropic's form. Its episode is found as for chat."""
    warnings = await heavy.run(call.size, lambda: check("messages", body))
    chat = await heavy.run(call.weight(len(body.messages)), body.chat)
    conversation = await conversations.begin(call, chat, [*warnings, *body.warnings()])
    if body.stream:
        return sse(conversation, _stream(body, conversations, conversation, await merged(conversation)))
    (answer,) = await conversation.answers()
    reason, sequence = _end(body, conversations, answer)
    content = [_content(block, block.text) for block in blocks_of(answer.message, reasoning=body.thinks)]
    whole = {
        **_common_fields(conversation),
        "content": content,
        "stop_reason": reason,
        "stop_sequence": sequence,
        "usage": _usage(answer),
    }
    headers = {**conversation.headers, "x-policy-version": str(answer.version)}
    return Response(write_json(whole), headers=headers, media_type="application/json")


@dialect.post("/v1/messages/count_tokens")
async def count_tokens(body: CountRequest, conversations: ConversationsOf, call: CallOf) -> dict[str, int]:
    """Count the tokens of a prompt; nothing is sampled or recorded."""
    await heavy.run(call.size, lambda: check("messages", body))
    await conversations.require(body.model)
    chat = await heavy.run(call.weight(len(body.messages)), body.chat)
    return {"input_tokens": len(await conversations.prompt_ids(call, chat))}


async def _stream(
    body: MessagesRequest, conversations: Conversations, conversation: Conversation, pieces: Pieces
) -> AsyncGenerator[str, None]:
    """Yield the events of one answer."""

    def say(kind: str, **fields: Any) -> str:
        return event({"type": kind, **fields}, kind)

    start = {
        **_common_fields(conversation),
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }
    yield say("message_start", message=start)
    try:
        async for stage, block, text in blocks(pieces, reasoning=body.thinks):
            if stage == "opens":
                yield say("content_block_start", index=block.index, content_block=_content(block, ""))
            elif stage == "grows":
                yield say("content_block_delta", index=block.index, delta=_delta(block, text))
            else:
                yield say("content_block_stop", index=block.index)
        (answer,) = await conversation.answers()
        reason, sequence = _end(body, conversations, answer)
        yield say("message_delta", delta={"stop_reason": reason, "stop_sequence": sequence}, usage=_usage(answer))
        yield say("message_stop")
    except UpturnError as error:
        yield event(dialect.errors.body(error), "error")


def _common_fields(conversation: Conversation) -> dict[str, Any]:
    return {
        "id": f"msg_{conversation.turns[0].id}",
        "type": "message",
        "role": "assistant",
        "model": conversation.model,
    }


def _usage(answer: Answer) -> dict[str, int]:
    return {
        "input_tokens": answer.prompt_tokens,
        "output_tokens": len(answer.token_ids),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
    }


def _content(block: Block, text: str) -> dict[str, Any]:
    """Return a content block with its whole text, or with none at its start."""
    if block.kind == "reasoning":
        return {"type": "thinking", "thinking": text, "signature": ""}
    if block.call is None:
        return {"type": "text", "text": text}
    return {"type": "tool_use", "id": block.call.id, "name": block.call.name, "input": _arguments(text) if text else {}}


def _delta(block: Block, text: str) -> dict[str, str]:
    if block.kind == "reasoning":
        return {"type": "thinking_delta", "thinking": text}
    if block.kind == "content":
        return {"type": "text_delta", "text": text}
    return {"type": "input_json_delta", "partial_json": write_json(_arguments(text))}


def _arguments(text: str) -> dict[str, Any]:
    """Return a call's input as an object, which Anthropic's clients require; anything else is wrapped in one.

    They cannot read half a surrogate pair in a stream, nor send it back.
    """
    try:
        written = read_json(without_halves(json.dumps(read_json(text), ensure_ascii=False)))
    except ValueError:
        written = text
    return written if isinstance(written, dict) else {"arguments": written}


def _end(body: MessagesRequest, conversations: Conversations, answer: Answer) -> tuple[str, str | None]:
    """Return the stop reason and the stop sequence."""
    finish = finish_reason(answer, body.choice, whole=not body.stream)
    if finish == "length":
        return "max_tokens", None
    found = stop_reason(answer, tuple(body.stop_sequences or ()), conversations.renderer)
    if isinstance(found, str):
        return "stop_sequence", found
    return "tool_use" if answer.message.get("tool_calls") else "end_turn", None
