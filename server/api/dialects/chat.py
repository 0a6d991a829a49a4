"""`POST /v1/chat/completions`, as JSON and as server-sent events. The straight line begins here.

The route reads OpenAI's request, lets `conversation.py` take the turns, and shows them in OpenAI's form. A turn is
durable before its answer, and before the last chunk of its stream, leaves.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response, StreamingResponse

from server.api.dialects.chat_request import ChatRequest
from server.api.dialects.conversation import CallOf, Conversation, converse
from server.api.dialects.streams import MAY_STREAM, Pieces, event, merged
from server.api.state import Parts, State
from server.errors import UpturnError
from server.recording.turn import Answer
from server.rendering.answers import ToolCall

router = APIRouter(tags=["chat"])


@router.post("/v1/chat/completions", response_model=None, responses=MAY_STREAM)
@router.post("/episodes/{episode_id}/v1/chat/completions", response_model=None, responses=MAY_STREAM)
async def chat(body: ChatRequest, parts: Parts, call: CallOf) -> Response:
    """Answer a conversation; the episode is named by header, URL or its own key, or found by the conversation."""
    conversation = await converse(parts, call, body)
    if body.stream:
        pieces = await merged(conversation)
        return StreamingResponse(
            _stream(body, parts, conversation, pieces), media_type="text/event-stream", headers=conversation.headers
        )
    answers = await conversation.answers()
    return JSONResponse(
        {
            "id": f"chatcmpl-{answers[0].turn_id}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": f"{conversation.policy}@{answers[0].version}",
            "usage": usage(answers),
            "choices": [
                {
                    "index": index,
                    "message": {"refusal": None, **answer.message},
                    "finish_reason": finish_reason(answer),
                    "logprobs": _logprobs(body, parts, answer),
                }
                for index, answer in enumerate(answers)
            ],
        },
        headers={**conversation.headers, "x-policy-version": str(answers[0].version)},
    )


async def _stream(body: ChatRequest, parts: State, conversation: Conversation, pieces: Pieces) -> AsyncIterator[str]:
    """Yield chunks. A client that goes away abandons the turns: sampling stops, what there is gets recorded."""
    head = {
        "id": f"chatcmpl-{conversation.turns[0].id}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": f"{conversation.policy}@{conversation.turns[0].version}",
    }

    def chunk(index: int, delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
        choice = {"index": index, "delta": delta, "finish_reason": finish, "logprobs": None, **more}
        return event({**head, "choices": [choice]})

    finished = False
    try:
        for index in range(len(conversation.turns)):
            yield chunk(index, {"role": "assistant", "content": ""})
        async for index, delta in pieces:
            if delta.reasoning:
                yield chunk(index, {"reasoning_content": delta.reasoning})
            if delta.content:
                yield chunk(index, {"content": delta.content})
            if delta.call is not None:
                for part in _call_deltas(delta.call):
                    yield chunk(index, {"tool_calls": [part]})
        answers = await conversation.answers()
        finished = True
        for index, answer in enumerate(answers):
            head["model"] = f"{conversation.policy}@{answer.version}"
            yield chunk(index, {}, finish_reason(answer), logprobs=_logprobs(body, parts, answer))
        if body.stream_options and body.stream_options.include_usage:
            yield event({**head, "choices": [], "usage": usage(answers)})
        yield "data: [DONE]\n\n"
    except UpturnError as error:
        finished = True
        yield event(error.body())
    finally:
        if not finished:
            conversation.leave()


def finish_reason(answer: Answer) -> str:
    """Return why an answer ended, in OpenAI's words."""
    if answer.message.get("tool_calls"):
        return "tool_calls"
    return "length" if answer.finish_reason == "length" else "stop"


def usage(answers: list[Answer]) -> dict[str, int]:
    """Return the tokens of a request."""
    prompt, completion = answers[0].prompt_tokens, sum(len(answer.token_ids) for answer in answers)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _call_deltas(call: ToolCall) -> list[dict[str, Any]]:
    """Return a call as OpenAI streams it: who is called, then with what."""
    return [
        {"index": call.position, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}},
        {"index": call.position, "function": {"arguments": call.arguments}},
    ]


def _logprobs(body: ChatRequest, parts: State, answer: Answer) -> dict[str, Any] | None:
    if not body.logprobs:
        return None
    tops = answer.top_logprobs or [{}] * len(answer.token_ids)
    return {
        "refusal": None,
        "content": [
            {
                **_token(parts, token, logprob),
                "top_logprobs": [
                    _token(parts, other, value) for other, value in sorted(top.items(), key=lambda pair: -pair[1])
                ],
            }
            for token, logprob, top in zip(answer.token_ids, answer.logprobs, tops, strict=True)
        ],
    }


def _token(parts: State, token: int, logprob: float) -> dict[str, Any]:
    text = parts.turns.text_of(token)
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}
