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
from server.api.dialects.streams import Pieces, event, merged, sse
from server.errors import UpturnError
from server.recording.turn import Answer
from server.rendering.answers import ToolCall

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
                    "finish_reason": _finish_reason(answer),
                    "logprobs": _logprobs(body, conversations, answer),
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

    def chunk(index: int, delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
        choice = {"index": index, "delta": delta, "finish_reason": finish, "logprobs": None, **more}
        return event({**head, "choices": [choice]})

    def begins(index: int) -> str:
        begun.add(index)
        return chunk(index, {"role": "assistant", "content": ""})

    try:
        async for index, delta in pieces:
            head["model"] = f"{conversation.policy}@{conversation.turns[index].version}"
            if index not in begun:
                yield begins(index)
            if delta.reasoning:
                yield chunk(index, {"reasoning_content": delta.reasoning})
            if delta.content:
                yield chunk(index, {"content": delta.content})
            if delta.call is not None:
                for part in _call_deltas(delta.call):
                    yield chunk(index, {"tool_calls": [part]})
        answers = await conversation.answers()
        for index, answer in enumerate(answers):
            head["model"] = f"{conversation.policy}@{answer.version}"
            if index not in begun:
                yield begins(index)
            yield chunk(index, {}, _finish_reason(answer), logprobs=_logprobs(body, conversations, answer))
        if body.stream_options and body.stream_options.include_usage:
            yield event({**head, "choices": [], "usage": _usage(answers)})
        yield "data: [DONE]\n\n"
    except UpturnError as error:
        yield event(dialect.errors.body(error))


def _finish_reason(answer: Answer) -> str:
    if answer.message.get("tool_calls"):
        return "tool_calls"
    return "length" if answer.finish_reason == "length" else "stop"


def _usage(answers: list[Answer]) -> dict[str, int]:
    """Return token counts; the answers share one prompt."""
    prompt, completion = answers[0].prompt_tokens, sum(len(answer.token_ids) for answer in answers)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _call_deltas(call: ToolCall) -> list[dict[str, Any]]:
    """Return a call as OpenAI streams it: first the function's name, then its arguments."""
    return [
        {"index": call.position, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}},
        {"index": call.position, "function": {"arguments": call.arguments}},
    ]


def _logprobs(body: ChatRequest, conversations: Conversations, answer: Answer) -> dict[str, Any] | None:
    if not body.logprobs:
        return None

    def token(token_id: int, logprob: float) -> dict[str, Any]:
        text = conversations.text_of(token_id)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    tops = answer.top_logprobs or [{}] * len(answer.token_ids)
    return {
        "refusal": None,
        "content": [
            {
                **token(token_id, logprob),
                "top_logprobs": [
                    token(other, value) for other, value in sorted(top.items(), key=lambda pair: -pair[1])
                ],
            }
            for token_id, logprob, top in zip(answer.token_ids, answer.logprobs, tops, strict=True)
        ],
    }
