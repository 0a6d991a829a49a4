"""OpenAI's older `POST /v1/completions`: continues prompts that are text or token ids, without a chat template.

The requests are in `completions_request.py`. Each prompt becomes a chat request of its own. A prompt can be scored too:
`echo` and `prompt_logprobs` show the logprobs of its tokens (`prompt_scores.py`).
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from fastapi.responses import JSONResponse, Response

from server import heavy
from server.api.dialects.answering import Conversation
from server.api.dialects.answers.ends import stop_reason
from server.api.dialects.answers.logprobs import CompletionLogprobs, joined
from server.api.dialects.call import Call, CallOf
from server.api.dialects.completions_request import CompletionRequest
from server.api.dialects.conversation import Conversations, ConversationsOf
from server.api.dialects.dialect import Dialect
from server.api.dialects.fields.check import WARNING, check
from server.api.dialects.prompt_scores import Scored, prompt_logprobs, score
from server.api.dialects.streams import Pieces, event, merged, sse
from server.errors import BadRequest, UpturnError
from server.recording.keys import hash_of
from server.recording.turn import Answer

dialect = Dialect("completions")
PromptText = tuple[str, list[int]]
"""A prompt as text, and [T] its ids."""


class Prompts(Conversation):
    """The answers to all prompts of a request, which may belong to several episodes."""

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer; it lists all episodes."""
        return {**super().headers, "x-episode-id": ",".join(dict.fromkeys(turn.episode_id for turn in self.turns))}


@dialect.post("/v1/completions", may_stream=True)
async def complete(body: CompletionRequest, conversations: ConversationsOf, call: CallOf) -> Response:
    """Continue each prompt. Unless an episode is named, each prompt opens its own."""
    warnings = await heavy.run(call.size, lambda: check("completions", body))
    asked = body.prompts()
    prompts = [await heavy.run(call.size, partial(_text_and_ids, prompt, conversations)) for prompt in asked]
    if body.max_tokens == 0:
        return await _scored_only(body, conversations, prompts, warnings)
    conversation = await _begin(body, conversations, call, prompts, warnings)
    scored = await conversation.while_connected(_scores(body, conversations, prompts, conversation))
    if body.stream:
        pieces = await merged(conversation)
        return sse(conversation, _stream(body, conversations, conversation, pieces, scored))
    answers = await conversation.answers()
    return JSONResponse(
        {
            **_common_fields(conversation, answers[0].version),
            "usage": _usage(body, answers),
            "choices": [
                {
                    "index": index,
                    "text": (scored[index].text if body.echo else "") + answer.text,
                    **_details(body, conversations, scored[index]),
                    **_ended(body, conversations, answer),
                    "logprobs": _all_logprobs(body, conversations, scored[index], answer),
                }
                for index, answer in enumerate(answers)
            ],
        },
        headers={**conversation.headers, "x-policy-version": str(answers[0].version)},
    )


async def _begin(
    body: CompletionRequest,
    conversations: Conversations,
    call: Call,
    prompts: Sequence[PromptText],
    warnings: Sequence[str],
) -> Prompts:
    """Start answering all prompts; if one fails, abandon the others."""
    turns = []
    for position, (text, ids) in enumerate(prompts):
        if position and call.idempotency_key:
            call = replace(call, idempotency_key=hash_of(f"{position} {call.idempotency_key}"))
        try:
            turns += (await conversations.begin(call, body.chat(position, text, ids))).turns
        except UpturnError:
            for turn in turns:
                turn.leave()
            raise
    return Prompts(conversations.policy, body.model, turns, call, not body.stream, tuple(warnings))


def _text_and_ids(prompt: str | list[int], conversations: Conversations) -> PromptText:
    """Return a prompt in both forms."""
    tokenizer = conversations.tokenizer
    if isinstance(prompt, str):
        conversations.turns.check_text(len(prompt))
    ids = tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
    if not ids or max(ids) >= tokenizer.size:
        raise BadRequest(f"a prompt must have at least 1 token, each below {tokenizer.size}", param="prompt")
    return prompt if isinstance(prompt, str) else tokenizer.decode(ids), ids


async def _scores(
    body: CompletionRequest, conversations: Conversations, prompts: Sequence[PromptText], conversation: Prompts
) -> list[Scored]:
    """Return the prompt of each answer, with its logprobs if they are wanted; if that fails, abandon the answers."""
    try:
        scored = [await score(conversations, body, *prompt, version=conversation.version) for prompt in prompts]
    except UpturnError:
        conversation.leave()
        raise
    return [each for each in scored for _ in range(body.n or 1)]


async def _scored_only(
    body: CompletionRequest, conversations: Conversations, prompts: Sequence[PromptText], warnings: Sequence[str]
) -> Response:
    """Return the prompts and their logprobs; nothing is sampled or recorded."""
    await conversations.require(body.model)
    version = conversations.pointers.resolve(body.model, conversations.engine)
    scored = [await score(conversations, body, *prompt, version=version) for prompt in prompts]
    tokens = sum(len(each.ids) for each in scored)
    return JSONResponse(
        {
            "id": f"cmpl-{time.time_ns():x}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": body.model,
            "system_fingerprint": f"{conversations.policy}@{version}",
            "usage": {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens},
            "choices": [
                {
                    "index": index,
                    "text": each.text if body.echo else "",
                    "finish_reason": "length",
                    **_details(body, conversations, each),
                    "logprobs": _all_logprobs(body, conversations, each, None),
                }
                for index, each in enumerate(each for each in scored for _ in range(body.n or 1))
            ],
        },
        headers={"x-policy-version": str(version), **({WARNING: "; ".join(warnings)} if warnings else {})},
    )


async def _stream(
    body: CompletionRequest,
    conversations: Conversations,
    conversation: Conversation,
    pieces: Pieces,
    scored: Sequence[Scored],
) -> AsyncGenerator[str, None]:
    """Yield chunks of text, then each answer's finish reason."""
    common = _common_fields(conversation, conversation.version)
    logprobs = [_logprobs(body, conversations) for _ in conversation.turns]

    def chunk(index: int, text: str, **more: Any) -> str:
        choice = {"index": index, "text": text, "finish_reason": None, "logprobs": None, **more}
        return event({**common, "choices": [choice]})

    try:
        for index, prompt in enumerate(scored):
            if body.echo or body.return_token_ids or prompt.entries is not None:
                listed = logprobs[index] if body.echo else None
                found = listed.of_prompt(prompt.ids, prompt.entries or []) if listed else None
                shown = _details(body, conversations, prompt)
                yield chunk(index, prompt.text if body.echo else "", **shown, logprobs=found)
        async for index, delta in pieces:
            listed = logprobs[index]
            found = listed.of_delta(delta) if listed else None
            if delta.content or found:
                yield chunk(index, delta.content, logprobs=found)
        answers = await conversation.answers()
        for index, (answer, listed) in enumerate(zip(answers, logprobs, strict=True)):
            ended = _ended(body, conversations, answer)
            yield chunk(index, "", **ended, logprobs=listed.rest(answer) if listed else None)
        if body.stream_options and body.stream_options.include_usage:
            yield event({**common, "choices": [], "usage": _usage(body, answers)})
        yield "data: [DONE]\n\n"
    except UpturnError as error:
        yield event(dialect.errors.body(error))


def _details(body: CompletionRequest, conversations: Conversations, prompt: Scored) -> dict[str, Any]:
    """Return the fields of a choice that show its prompt."""
    shown: dict[str, Any] = {}
    if body.prompt_logprobs is not None:
        shown["prompt_logprobs"] = prompt_logprobs(conversations, prompt)
    if body.return_token_ids:
        shown["prompt_token_ids"] = prompt.ids
    return shown


def _ended(body: CompletionRequest, conversations: Conversations, answer: Answer) -> dict[str, Any]:
    """Return the fields of a choice that say how its answer ended."""
    return {
        "finish_reason": "length" if answer.finish_reason == "length" else "stop",
        "stop_reason": stop_reason(answer, body.stop_strings, conversations.renderer),
        **({"token_ids": answer.token_ids} if body.return_token_ids else {}),
    }


def _common_fields(conversation: Conversation, version: int) -> dict[str, Any]:
    return {
        "id": f"cmpl-{conversation.turns[0].id}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": conversation.model,
        "system_fingerprint": conversation.fingerprint(version),
    }


def _usage(body: CompletionRequest, answers: list[Answer]) -> dict[str, int]:
    """Return token counts; a prompt with several answers counts once."""
    prompt = sum(answer.prompt_tokens for answer in answers[:: body.n or 1])
    completion = sum(len(answer.token_ids) for answer in answers)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _logprobs(body: CompletionRequest, conversations: Conversations) -> CompletionLogprobs | None:
    """Return what shows the logprobs of one choice; None if the request does not want them."""
    if body.logprobs is None:
        return None
    ids_as_text = bool(body.return_tokens_as_token_ids)
    return CompletionLogprobs(conversations.tokenizer, body.logprobs, ids_as_text=ids_as_text)


def _all_logprobs(
    body: CompletionRequest, conversations: Conversations, prompt: Scored, answer: Answer | None
) -> dict[str, Any] | None:
    """Return the logprobs of an echoed prompt and of the answer after it."""
    if (listed := _logprobs(body, conversations)) is None:
        return None
    parts = [listed.of_prompt(prompt.ids, prompt.entries or [])] if body.echo else []
    return joined([*parts, *([listed.rest(answer)] if answer is not None else [])])
