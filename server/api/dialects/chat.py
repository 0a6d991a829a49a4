"""OpenAI's `POST /v1/chat/completions`, whole and as server-sent events. The straight line begins here.

The route reads OpenAI's request, `conversation.py` takes the turns, and the route shows them in OpenAI's form. A turn
is durable before its answer, or the last chunk of its stream, is sent.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import Any

from fastapi.responses import JSONResponse, Response

from server.api.dialects.call import CallOf
from server.api.dialects.chat_request import ChatRequest
from server.api.dialects.conversation import Conversation, Conversations, ConversationsOf
from server.api.dialects.dialect import Dialect
from server.api.dialects.ends import finish_reason, stop_reason
from server.api.dialects.logprobs import ChatLogprobs
from server.api.dialects.streams import Pieces, event, merged, sse
from server.errors import UpturnError
from server.recording.turn import Answer
from server.rendering.answers import Delta

dialect = Dialect("chat")


@dialect.post("/v1/chat/completions", may_stream=True)
async def chat(body: ChatRequest, conversations: ConversationsOf, call: CallOf) -> Response:
    """Answer a conversation. Its episode is named by header, URL or the episode's key, or found by the conversation."""
    conversation = await conversations.begin(call, body)
    if body.stream:
        return sse(conversation, _stream(body, conversations, conversation, await merged(conversation)))
    answers = await conversation.answers()
    return JSONResponse(
        {
            "id": f"chatcmpl-{answers[0].turn_id}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": f"{conversation.policy}@{answers[0].version}",
            "usage": _usage(answers),
            "choices": [
                {
                    "index": index,
                    "message": {"refusal": None, **answer.message},
                    "finish_reason": finish_reason(answer, body.choice, whole=True),
                    "stop_reason": stop_reason(answer, body.stop_strings, conversations.renderer),
                    "logprobs": listed.rest(answer) if (listed := _logprobs(body, conversations)) else None,
                }
                for index, answer in enumerate(answers)
            ],
        },
        headers={**conversation.headers, "x-policy-version": str(answers[0].version)},
    )


async def _stream(
    body: ChatRequest, conversations: Conversations, conversation: Conversation, pieces: Pieces
) -> AsyncGenerator[str, None]:
    """Yield the chunks of all answers."""
    head = {
        "id": f"chatcmpl-{conversation.turns[0].id}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": "",
    }
    begun: set[int] = set()
    logprobs = [_logprobs(body, conversations) for _ in conversation.turns]

    def chunk(index: int, delta: dict[str, Any], **more: Any) -> str:
        choice = {"index": index, "delta": delta, "finish_reason": None, "logprobs": None, **more}
        return event({**head, "choices": [choice]})

    def begins(index: int) -> str:
        begun.add(index)
        return chunk(index, {"role": "assistant", "content": ""})

    try:
        async for index, delta in pieces:
            head["model"] = f"{conversation.policy}@{conversation.turns[index].version}"
            if index not in begun:
                yield begins(index)
            listed = logprobs[index]
            found = listed.of_delta(delta) if listed else None
            for part in _parts(delta) or ([{}] if found else []):
                yield chunk(index, part, logprobs=found)
                found = None  # The first chunk has the logprobs of all.
        answers = await conversation.answers()
        for index, (answer, listed) in enumerate(zip(answers, logprobs, strict=True)):
            head["model"] = f"{conversation.policy}@{answer.version}"
            if index not in begun:
                yield begins(index)
            yield chunk(
                index,
                {},
                finish_reason=finish_reason(answer, body.choice, whole=False),
                stop_reason=stop_reason(answer, body.stop_strings, conversations.renderer),
                logprobs=listed.rest(answer) if listed else None,
            )
        if body.stream_options and body.stream_options.include_usage:
            yield event({**head, "choices": [], "usage": _usage(answers)})
        yield "data: [DONE]\n\n"
    except UpturnError as error:
        yield event(dialect.errors.body(error))


def _usage(answers: list[Answer]) -> dict[str, int]:
    """Return token counts; the answers share one prompt."""
    prompt, completion = answers[0].prompt_tokens, sum(len(answer.token_ids) for answer in answers)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _parts(delta: Delta) -> list[dict[str, Any]]:
    """Return a piece as chat's deltas. A call is two: first the function's name, then its arguments."""
    parts: list[dict[str, Any]] = []
    if delta.reasoning:
        parts.append({"reasoning_content": delta.reasoning})
    if delta.content:
        parts.append({"content": delta.content})
    if (call := delta.call) is not None:
        named = {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
        for part in (named, {"function": {"arguments": call.arguments}}):
            parts.append({"tool_calls": [{"index": call.position, **part}]})
    return parts


def _logprobs(body: ChatRequest, conversations: Conversations) -> ChatLogprobs | None:
    """Return what shows the logprobs of one answer; None if the request does not want them."""
    return ChatLogprobs(conversations.tokenizer, body.top_logprobs or 0) if body.logprobs else None
