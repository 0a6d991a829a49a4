"""OpenAI's older `POST /v1/completions`: continues prompts that are text or token ids, without a chat template.

The requests are in `completions_request.py`. Each prompt becomes a chat request of its own.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from functools import partial
from typing import Any

from fastapi.responses import JSONResponse, Response

from server import heavy
from server.api.dialects.call import Call, CallOf
from server.api.dialects.completions_request import CompletionRequest
from server.api.dialects.conversation import Conversation, Conversations, ConversationsOf
from server.api.dialects.dialect import Dialect
from server.api.dialects.ends import stop_reason
from server.api.dialects.logprobs import CompletionLogprobs
from server.api.dialects.streams import Pieces, event, merged, sse
from server.errors import BadRequest, UpturnError
from server.recording.keys import hash_of
from server.recording.turn import Answer

dialect = Dialect("completions")


class Prompts(Conversation):
    """The answers to all prompts of a request, which may belong to several episodes."""

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer; it lists all episodes."""
        return {**super().headers, "x-episode-id": ",".join(dict.fromkeys(turn.episode_id for turn in self.turns))}


@dialect.post("/v1/completions", may_stream=True)
async def complete(body: CompletionRequest, conversations: ConversationsOf, call: CallOf) -> Response:
    """Continue each prompt. Unless an episode is named, each prompt opens its own."""
    conversation = await _begin(body, conversations, call)
    if body.stream:
        return sse(conversation, _stream(body, conversations, conversation, await merged(conversation)))
    answers = await conversation.answers()
    common = _common_fields(conversation, answers[0].version)
    return JSONResponse(
        {
            **common,
            "usage": _usage(body, answers),
            "choices": [
                {
                    "index": index,
                    "text": answer.text,
                    "finish_reason": _end(answer),
                    "stop_reason": stop_reason(answer, body.stop_strings, conversations.renderer),
                    "logprobs": listed.rest(answer) if (listed := _logprobs(body, conversations)) else None,
                }
                for index, answer in enumerate(answers)
            ],
        },
        headers={**conversation.headers, "x-policy-version": str(answers[0].version)},
    )


async def _begin(body: CompletionRequest, conversations: Conversations, call: Call) -> Prompts:
    """Start answering all prompts; if one fails, abandon the others."""
    turns = []
    for position, prompt in enumerate(body.prompts()):
        text, ids = await heavy.run(call.size, partial(_text_and_ids, prompt, conversations))
        if position and call.idempotency_key:
            call = replace(call, idempotency_key=hash_of(f"{position} {call.idempotency_key}"))
        try:
            turns += (await conversations.begin(call, body.chat(position, text, ids))).turns
        except UpturnError:
            for turn in turns:
                turn.leave()
            raise
    return Prompts(conversations.policy, turns, call, not body.stream)


def _text_and_ids(prompt: str | list[int], conversations: Conversations) -> tuple[str, list[int]]:
    """Return a prompt in both forms."""
    tokenizer = conversations.tokenizer
    if isinstance(prompt, str):
        conversations.turns.check_text(len(prompt))
    ids = tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
    if not ids or max(ids) >= tokenizer.size:
        raise BadRequest(f"a prompt must have at least 1 token, each below {tokenizer.size}", param="prompt")
    return prompt if isinstance(prompt, str) else tokenizer.decode(ids), ids


async def _stream(
    body: CompletionRequest, conversations: Conversations, conversation: Conversation, pieces: Pieces
) -> AsyncGenerator[str, None]:
    """Yield chunks of text, then each answer's finish reason."""
    common = _common_fields(conversation, conversation.version)
    logprobs = [_logprobs(body, conversations) for _ in conversation.turns]

    def chunk(index: int, text: str, **more: Any) -> str:
        choice = {"index": index, "text": text, "finish_reason": None, "logprobs": None, **more}
        return event({**common, "choices": [choice]})

    try:
        async for index, delta in pieces:
            listed = logprobs[index]
            found = listed.of_delta(delta) if listed else None
            if delta.content or found:
                yield chunk(index, delta.content, logprobs=found)
        answers = await conversation.answers()
        for index, (answer, listed) in enumerate(zip(answers, logprobs, strict=True)):
            yield chunk(
                index,
                "",
                finish_reason=_end(answer),
                stop_reason=stop_reason(answer, body.stop_strings, conversations.renderer),
                logprobs=listed.rest(answer) if listed else None,
            )
        if body.stream_options and body.stream_options.include_usage:
            yield event({**common, "choices": [], "usage": _usage(body, answers)})
        yield "data: [DONE]\n\n"
    except UpturnError as error:
        yield event(dialect.errors.body(error))


def _common_fields(conversation: Conversation, version: int) -> dict[str, Any]:
    return {
        "id": f"cmpl-{conversation.turns[0].id}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": f"{conversation.policy}@{version}",
    }


def _end(answer: Answer) -> str:
    return "length" if answer.finish_reason == "length" else "stop"


def _usage(body: CompletionRequest, answers: list[Answer]) -> dict[str, int]:
    """Return token counts; a prompt with several answers counts once."""
    prompt = sum(answer.prompt_tokens for answer in answers[:: body.n or 1])
    completion = sum(len(answer.token_ids) for answer in answers)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _logprobs(body: CompletionRequest, conversations: Conversations) -> CompletionLogprobs | None:
    """Return what shows the logprobs of one answer; None if the request does not want them."""
    return None if body.logprobs is None else CompletionLogprobs(conversations.tokenizer)
