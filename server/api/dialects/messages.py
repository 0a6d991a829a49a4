"""Anthropic's `POST /v1/messages`, as JSON and as server-sent events, and the count of a prompt's tokens.

The request is `messages_request.py`'s; the turns are taken like a chat's. Errors have Anthropic's form
(`anthropic_errors.py`).
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from server.api.dialects.anthropic_errors import anthropic_error
from server.api.dialects.common import Block, blocks, blocks_of, sse
from server.api.dialects.conversation import CallOf, Conversation, converse
from server.api.dialects.messages_request import CountRequest, MessagesRequest
from server.api.dialects.streams import MAY_STREAM, Pieces, event, merged
from server.api.state import Parts, State
from server.errors import UpturnError
from server.recording.turn import Answer

router = APIRouter(tags=["messages"])


@router.post("/v1/messages", response_model=None, responses=MAY_STREAM)
@router.post("/episodes/{episode_id}/v1/messages", response_model=None, responses=MAY_STREAM)
async def messages(body: MessagesRequest, parts: Parts, call: CallOf) -> Response:
    """Answer a conversation in Anthropic's form; its episode is found as a chat's is."""
    conversation = await converse(parts, call, body.chat())
    if body.stream:
        return sse(conversation, _stream(body, parts, conversation, await merged(conversation)))
    (answer,) = await conversation.answers()
    ended, by = _end(body, parts, answer)
    content = [_content(block, block.text) for block in blocks_of(answer.message, reasoning=body.thinks)]
    return JSONResponse(
        {
            **_head(conversation, answer.version),
            "content": content,
            "stop_reason": ended,
            "stop_sequence": by,
            "usage": _usage(answer),
        },
        headers={**conversation.headers, "x-policy-version": str(answer.version)},
    )


@router.post("/v1/messages/count_tokens")
@router.post("/episodes/{episode_id}/v1/messages/count_tokens")
async def count_tokens(body: CountRequest, parts: Parts, call: CallOf) -> dict[str, int]:
    """Count the tokens of a prompt, without an answer and without a record."""
    await parts.residency.load_on_demand(body.model)
    parts.pointers.resolve(body.model, parts.engine)
    ask = body.chat().ask(parts.engine.context_tokens, owner="", digest="")
    return {"input_tokens": len(parts.renderer.prompt(ask.messages, ask.tools, ask.template_options))}


async def _stream(
    body: MessagesRequest, parts: State, conversation: Conversation, pieces: Pieces
) -> AsyncGenerator[str, None]:
    """Yield the events of one answer."""

    def say(kind: str, **fields: Any) -> str:
        return event({"type": kind, **fields}, kind)

    begun = {
        **_head(conversation, conversation.turns[0].version),
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }
    yield say("message_start", message=begun)
    try:
        async for stage, block, text in blocks(pieces, reasoning=body.thinks):
            if stage == "opens":
                yield say("content_block_start", index=block.index, content_block=_content(block, ""))
            elif stage == "grows":
                yield say("content_block_delta", index=block.index, delta=_delta(block, text))
            else:
                yield say("content_block_stop", index=block.index)
        (answer,) = await conversation.answers()
        ended, by = _end(body, parts, answer)
        yield say("message_delta", delta={"stop_reason": ended, "stop_sequence": by}, usage=_usage(answer))
        yield say("message_stop")
    except UpturnError as error:
        yield event(anthropic_error(error), "error")


def _head(conversation: Conversation, version: int) -> dict[str, Any]:
    return {
        "id": f"msg_{conversation.turns[0].id}",
        "type": "message",
        "role": "assistant",
        "model": f"{conversation.policy}@{version}",
    }


def _usage(answer: Answer) -> dict[str, int]:
    return {
        "input_tokens": answer.prompt_tokens,
        "output_tokens": len(answer.token_ids),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
    }


def _content(block: Block, text: str) -> dict[str, Any]:
    """Return a block of content: an empty one for its start, or the whole."""
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
    return {"type": "input_json_delta", "partial_json": json.dumps(_arguments(text), ensure_ascii=False)}


def _arguments(text: str) -> dict[str, Any]:
    """Return a call's input: an object, as Anthropic's clients need it, whatever the model wrote."""
    try:
        written = json.loads(text)
    except ValueError:
        written = text
    return written if isinstance(written, dict) else {"arguments": written}


def _end(body: MessagesRequest, parts: State, answer: Answer) -> tuple[str, str | None]:
    """Return why an answer ended, and the stop sequence that ended it: its tokens are part of the record."""
    if answer.message.get("tool_calls"):
        return "tool_use", None
    if answer.finish_reason == "length":
        return "max_tokens", None
    text = parts.renderer.tokenizer.decode(answer.token_ids) if body.stop_sequences else ""
    found = [(text.index(stop), stop) for stop in body.stop_sequences or [] if stop in text]
    return ("stop_sequence", min(found)[1]) if found else ("end_turn", None)
