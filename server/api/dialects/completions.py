"""OpenAI's older `POST /v1/completions`: a prompt that is text or token ids, not messages, and goes on as text.

Each prompt is asked as a request of its own. Its tokens are the whole prompt: no chat template stands around them.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from itertools import accumulate
from typing import Annotated, Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from server.api.dialects.chat_request import ChatRequest, StreamOptions
from server.api.dialects.common import checked, sse
from server.api.dialects.conversation import Call, CallOf, Conversation, converse
from server.api.dialects.streams import MAY_STREAM, Pieces, event, merged
from server.api.state import Parts, State
from server.errors import BadRequest, UpturnError
from server.recording.keys import hash_of
from server.recording.turn import Answer
from server.recording.turn_request import TurnRequest

router = APIRouter(tags=["completions"])

DEFAULT_TOKENS = 16  # OpenAI's.
MOST_ANSWERS = 128  # As many as a chat may ask for.
Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class PromptRequest(ChatRequest):
    """A request for answers to one prompt, as `conversation.py` takes it."""

    prompt_ids: list[int]
    position: int
    """Among the prompts of its request: the same prompt twice is two."""

    def ask(self, context_tokens: int, **who: Any) -> TurnRequest:
        """Return what the request asks of the policy."""
        return replace(super().ask(context_tokens, **who), prompt_ids=self.prompt_ids)


class Prompts(Conversation):
    """The answers to all prompts of a request; their episodes may be several."""

    @property
    def headers(self) -> dict[str, str]:
        """What the answer says of itself."""
        return {**super().headers, "x-episode-id": ",".join(dict.fromkeys(turn.episode_id for turn in self.turns))}


class CompletionRequest(BaseModel):
    """OpenAI's request; sampling fields that it does not name are passed on to the engine."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: str
    prompt: str | Ids | list[str] | list[Ids]
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=10)
    top_p: float | None = Field(default=None, gt=0, le=1)
    n: int | None = Field(default=None, ge=1, le=MOST_ANSWERS)
    best_of: int | None = Field(default=None, ge=1)
    stop: str | list[str] | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63 - 128)
    logprobs: int | None = Field(default=None, ge=0, le=20)
    echo: bool | None = None
    suffix: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def prompts(self) -> list[str | list[int]]:
        """Return the prompts, each text or ids.

        Raises:
            BadRequest: there are none, or too many; or the request asks for what this server does not have.
        """
        refused = {"echo": self.echo, "suffix": self.suffix, "best_of": (self.best_of or 1) > (self.n or 1)}
        for name, asked in refused.items():
            if asked:
                raise BadRequest(f"this server does not support {name!r}", param=name, code="unsupported_parameter")
        ids = [each for each in self.prompt if isinstance(each, int)]
        several = [each for each in self.prompt if not isinstance(each, int)]
        found: list[str | list[int]] = [self.prompt] if isinstance(self.prompt, str) else [ids] if ids else several
        if not 1 <= len(found) * (self.n or 1) <= MOST_ANSWERS:
            raise BadRequest(f"a request may ask for 1 to {MOST_ANSWERS} answers in all", param="prompt")
        return found

    def chat(self, position: int, text: str, ids: list[int]) -> PromptRequest:
        """Return the request for the answers to one of the prompts."""
        extra = {
            name: value for name, value in (self.model_extra or {}).items() if name not in PromptRequest.model_fields
        }
        return checked(
            PromptRequest,
            {
                **extra,
                "model": self.model,
                "messages": [{"role": "prompt", "content": text}],
                "prompt_ids": ids,
                "position": position,
                "max_tokens": self.max_tokens or DEFAULT_TOKENS,
                "temperature": self.temperature,
                "top_p": self.top_p,
                "n": self.n,
                "stop": self.stop,
                "seed": self.seed,
                "stream": self.stream,
                "logprobs": self.logprobs is not None,
                "top_logprobs": self.logprobs,
            },
        )


@router.post("/v1/completions", response_model=None, responses=MAY_STREAM)
@router.post("/episodes/{episode_id}/v1/completions", response_model=None, responses=MAY_STREAM)
async def complete(body: CompletionRequest, parts: Parts, call: CallOf) -> Response:
    """Go on from each prompt; where no episode is named, each is one of its own."""
    conversation = await _converse(body, parts, call)
    if body.stream:
        return sse(conversation, _stream(body, parts, conversation, await merged(conversation)))
    answers = await conversation.answers()
    head = _head(conversation, answers[0].version)
    return JSONResponse(
        {
            **head,
            "usage": _usage(body, answers),
            "choices": [
                {
                    "index": index,
                    "text": answer.text,
                    "finish_reason": _end(answer),
                    "logprobs": _logprobs(body, parts, answer),
                }
                for index, answer in enumerate(answers)
            ],
        },
        headers={**conversation.headers, "x-policy-version": str(answers[0].version)},
    )


async def _converse(body: CompletionRequest, parts: State, call: Call) -> Prompts:
    """Begin to answer all prompts, or none."""
    tokenizer = parts.renderer.tokenizer
    turns = []
    for position, prompt in enumerate(body.prompts()):
        text, ids = (
            (prompt, tokenizer.encode(prompt)) if isinstance(prompt, str) else (tokenizer.decode(prompt), prompt)
        )
        if not ids or max(ids) >= tokenizer.size:
            raise BadRequest(f"a prompt has 1 or more tokens, each below {tokenizer.size}", param="prompt")
        if position and call.idempotency_key:
            call = replace(call, idempotency_key=hash_of(f"{position} {call.idempotency_key}"))
        try:
            turns += (await converse(parts, call, body.chat(position, text, ids))).turns
        except UpturnError:
            for begun in turns:
                begun.leave()
            raise
    return Prompts(parts.pointers.name, turns)


async def _stream(
    body: CompletionRequest, parts: State, conversation: Conversation, pieces: Pieces
) -> AsyncGenerator[str, None]:
    """Yield chunks of text, then how each answer ended."""
    head = _head(conversation, conversation.turns[0].version)

    def chunk(index: int, text: str, finish: str | None = None, logprobs: dict[str, Any] | None = None) -> str:
        choice = {"index": index, "text": text, "finish_reason": finish, "logprobs": logprobs}
        return event({**head, "choices": [choice]})

    try:
        async for index, delta in pieces:
            yield chunk(index, delta.content)
        answers = await conversation.answers()
        for index, answer in enumerate(answers):
            yield chunk(index, "", _end(answer), _logprobs(body, parts, answer))
        if body.stream_options and body.stream_options.include_usage:
            yield event({**head, "choices": [], "usage": _usage(body, answers)})
        yield "data: [DONE]\n\n"
    except UpturnError as error:
        yield event(error.body())


def _head(conversation: Conversation, version: int) -> dict[str, Any]:
    return {
        "id": f"cmpl-{conversation.turns[0].id}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": f"{conversation.policy}@{version}",
    }


def _end(answer: Answer) -> str:
    return "length" if answer.finish_reason == "length" else "stop"


def _usage(body: CompletionRequest, answers: list[Answer]) -> dict[str, int]:
    """Return the tokens of a request; a prompt with several answers counts once."""
    prompt = sum(answer.prompt_tokens for answer in answers[:: body.n or 1])
    completion = sum(len(answer.token_ids) for answer in answers)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _logprobs(body: CompletionRequest, parts: State, answer: Answer) -> dict[str, Any] | None:
    if body.logprobs is None:
        return None
    said = [parts.turns.text_of(token) for token in answer.token_ids]
    return {
        "tokens": said,
        "token_logprobs": answer.logprobs,
        "text_offset": list(accumulate(map(len, said), initial=0))[:-1],
        "top_logprobs": answer.top_logprobs
        and [{parts.turns.text_of(token): value for token, value in top.items()} for top in answer.top_logprobs],
    }
