"""OpenAI's `POST /v1/chat/completions`, whole and as server-sent events. The straight line begins here.

The route reads OpenAI's request, `conversation.py` takes the turns, and the route shows them in OpenAI's form. A turn
is durable before its answer, or the last chunk of its stream, is sent.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from types import MappingProxyType
from typing import Any

from fastapi.responses import JSONResponse, Response

from server import heavy
from server.api.dialects.answering import Conversation
from server.api.dialects.answers.ends import finish_reason, stop_reason
from server.api.dialects.answers.logprobs import ChatLogprobs
from server.api.dialects.call import CallOf
from server.api.dialects.chat_request import ChatRequest
from server.api.dialects.conversation import Conversations, ConversationsOf
from server.api.dialects.dialect import Dialect
from server.api.dialects.fields.check import check
from server.api.dialects.streams import Pieces, TextEvent, event, merged, sse
from server.api.dialects.tools.chat_tools import custom_names
from server.api.dialects.tools.custom import input_of
from server.errors import UpturnError
from server.recording.turn import Answer
from server.rendering.answers import Delta, ToolCall

dialect = Dialect("chat")


@dialect.post("/v1/chat/completions", may_stream=True)
async def chat(body: ChatRequest, conversations: ConversationsOf, call: CallOf) -> Response:
    """Answer a conversation. Its episode is named by header, URL or the episode's key, or found by the conversation."""
    warnings = await heavy.run(call.size, lambda: check("chat", body))
    conversation = await conversations.begin(call, body, warnings)
    if body.stream:
        return sse(conversation, _stream(body, conversations, conversation, await merged(conversation)))
    answers = await conversation.answers()
    return JSONResponse(
        {
            "id": f"chatcmpl-{answers[0].turn_id}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": conversation.model,
            "system_fingerprint": conversation.fingerprint(answers[0].version),
            "usage": _usage(answers),
            **({"prompt_token_ids": conversation.turns[0].prompt_ids} if body.return_token_ids else {}),
            "choices": [
                {
                    "index": index,
                    "message": {"refusal": None, **_shown(body, answer.message)},
                    "finish_reason": _finish_reason(body, answer, whole=True),
                    "stop_reason": stop_reason(answer, body.stop_strings, conversations.renderer),
                    "logprobs": listed.rest(answer) if (listed := _logprobs(body, conversations)) else None,
                    **_ids(body, answer),
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
        "model": conversation.model,
    }
    begun: set[int] = set()
    logprobs = [_logprobs(body, conversations) for _ in conversation.turns]

    texts: dict[tuple[int, str], TextEvent] = {}

    def filled(index: int, delta: dict[str, Any], top: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "finish_reason": None, "logprobs": None, **more}
        return {**head, **top, "choices": [choice]}

    def chunk(index: int, delta: dict[str, Any], top: Mapping[str, Any] = MappingProxyType({}), **more: Any) -> str:
        return event(filled(index, delta, top, **more))

    def text_chunk(index: int, text: str) -> str:
        kind = index, str(head["system_fingerprint"])
        if kind not in texts:
            texts[kind] = TextEvent(filled(index, {"content": TextEvent.PLACE}, {}))
        return texts[kind].with_text(text)

    def begins(index: int) -> str:
        prompt = {"prompt_token_ids": conversation.turns[0].prompt_ids} if body.return_token_ids and not begun else {}
        begun.add(index)
        return chunk(index, {"role": "assistant", "content": ""}, top=prompt)

    try:
        async for index, delta in pieces:
            head["system_fingerprint"] = conversation.fingerprint(conversation.turns[index].version)
            if index not in begun:
                yield begins(index)
            listed = logprobs[index]
            found = listed.of_delta(delta) if listed else None
            for part in _parts(body, delta) or ([{}] if found else []):
                plain = found is None and part.keys() == {"content"}
                yield text_chunk(index, part["content"]) if plain else chunk(index, part, logprobs=found)
                found = None  # The first chunk has the logprobs of all.
        answers = await conversation.answers()
        for index, (answer, listed) in enumerate(zip(answers, logprobs, strict=True)):
            head["system_fingerprint"] = conversation.fingerprint(answer.version)
            if index not in begun:
                yield begins(index)
            yield chunk(
                index,
                {},
                finish_reason=_finish_reason(body, answer, whole=False),
                stop_reason=stop_reason(answer, body.stop_strings, conversations.renderer),
                logprobs=listed.rest(answer) if listed else None,
                **_ids(body, answer),
            )
        if body.stream_options and body.stream_options.include_usage:
            yield event({**head, "choices": [], "usage": _usage(answers)})
        yield "data: [DONE]\n\n"
    except UpturnError as error:
        yield event(dialect.errors.body(error))


def _shown(body: ChatRequest, message: dict[str, Any]) -> dict[str, Any]:
    """Return the message as its request asks: with or without thoughts, and calls in the form of its tools."""
    shown = {
        name: value
        for name, value in message.items()
        if name != "tool_calls" and (name != "reasoning_content" or body.include_reasoning is not False)
    }
    calls = [
        ToolCall(position, call["id"], call["function"]["name"], call["function"]["arguments"])
        for position, call in enumerate(message.get("tool_calls") or [])
    ]
    if calls and body.legacy:
        return {**shown, "function_call": {"name": calls[0].name, "arguments": calls[0].arguments}}
    return {**shown, "tool_calls": [_call(body, call) for call in calls]} if calls else shown


def _call(body: ChatRequest, call: ToolCall) -> dict[str, Any]:
    """Return a call in the form of its tool."""
    if call.name not in custom_names(body.tools or ()):
        return call.as_message()
    return {"id": call.id, "type": "custom", "custom": {"name": call.name, "input": input_of(call.arguments)}}


def _ids(body: ChatRequest, answer: Answer) -> dict[str, Any]:
    return {"token_ids": answer.token_ids} if body.return_token_ids else {}


def _finish_reason(body: ChatRequest, answer: Answer, *, whole: bool) -> str:
    reason = finish_reason(answer, body.choice, whole=whole)
    return "function_call" if body.legacy and reason == "tool_calls" else reason


def _usage(answers: list[Answer]) -> dict[str, int]:
    """Return token counts; the answers share one prompt."""
    prompt, completion = answers[0].prompt_tokens, sum(len(answer.token_ids) for answer in answers)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _parts(body: ChatRequest, delta: Delta) -> list[dict[str, Any]]:
    """Return a piece as chat's deltas. A call is two: first the name, then the arguments."""
    parts: list[dict[str, Any]] = []
    if delta.reasoning and body.include_reasoning is not False:
        parts.append({"reasoning_content": delta.reasoning})
    if delta.content:
        parts.append({"content": delta.content})
    return parts + ([] if delta.call is None else _call_parts(body, delta.call))


def _call_parts(body: ChatRequest, call: ToolCall) -> list[dict[str, Any]]:
    if body.legacy:
        return [
            {"function_call": {"name": call.name, "arguments": ""}},
            {"function_call": {"arguments": call.arguments}},
        ]
    whole = _call(body, call)
    kind, field = ("custom", "input") if whole["type"] == "custom" else ("function", "arguments")
    begins = {"index": call.position, **whole, kind: {"name": call.name, field: ""}}
    continues = {"index": call.position, kind: {field: whole[kind][field]}}
    return [{"tool_calls": [begins]}, {"tool_calls": [continues]}]


def _logprobs(body: ChatRequest, conversations: Conversations) -> ChatLogprobs | None:
    """Return what shows the logprobs of one answer; None if the request does not want them."""
    if not body.logprobs:
        return None
    return ChatLogprobs(
        conversations.tokenizer, body.top_logprobs or 0, ids_as_text=bool(body.return_tokens_as_token_ids)
    )
