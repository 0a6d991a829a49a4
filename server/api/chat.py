"""`POST /v1/chat/completions`, as JSON and as server-sent events. The straight line begins here.

The route reads OpenAI's request, finds the episode and the version, takes the turn, and shows it in OpenAI's form. The
turn is durable before the answer, and before the last chunk of a stream, leaves.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from clients.wire import EpisodeOpen
from server.api.state import Parts
from server.errors import BadRequest, HorizonReached, UpturnError
from server.policy.engine import SamplingParams
from server.policy.routing import find_episode
from server.policy.turns import Answer, Turn
from server.recording.episode import Episode, hash_of

router = APIRouter(tags=["chat"])
NOT_SAMPLING = frozenset({"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
                          "parallel_tool_calls", "verbosity", "modalities"})
UNSUPPORTED = ("tools", "tool_choice", "functions", "function_call", "response_format", "audio", "prediction")


class StreamOptions(BaseModel):
    """How to stream."""

    model_config = ConfigDict(extra="allow", strict=True)
    include_usage: bool = False


class ChatRequest(BaseModel):
    """OpenAI's request; sampling fields that it does not name are passed on to the engine."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: str
    messages: list[dict[str, Any]] = Field(min_length=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=10)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    stop: str | list[str] | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    n: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)

    def checked_messages(self) -> list[dict[str, Any]]:
        """Return the messages after checking what templates rely on."""
        for position, message in enumerate(self.messages):
            where = f"messages[{position}]"
            if not isinstance(message.get("role"), str):
                raise BadRequest(f"{where} has no role", param=where)
            content = message.get("content")
            parts = content if isinstance(content, list) else []
            if not all(isinstance(p, dict) and p.get("type") == "text" and isinstance(p.get("text"), str)
                       for p in parts):
                raise BadRequest(f"{where}: this model reads text only", param=where)
            if not isinstance(content, str | list | None):
                raise BadRequest(f"{where}: content must be a string or a list of text parts", param=where)
        return self.messages

    def sampling(self, context_tokens: int) -> SamplingParams:
        """Return the engine's parameters.

        Raises:
            BadRequest: a feature that this server does not have.
        """
        extra = {k: v for k, v in (self.model_extra or {}).items() if v is not None and k not in NOT_SAMPLING}
        for name in UNSUPPORTED:
            if extra.pop(name, None):
                raise BadRequest(f"this server does not support {name!r}", param=name, code="unsupported_parameter")
        if self.n not in (None, 1):
            raise BadRequest("this server answers n = 1 only", param="n", code="unsupported_parameter")
        if self.top_logprobs and not self.logprobs:
            raise BadRequest("top_logprobs needs logprobs: true", param="top_logprobs")
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return SamplingParams(
            max_tokens=self.max_completion_tokens or self.max_tokens or context_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p, top_k=max(0, self.top_k or 0), stop=stop,
            seed=self.seed, top_logprobs=self.top_logprobs or 0, extra=extra)


@router.post("/v1/chat/completions", response_model=None)
async def chat(body: ChatRequest, parts: Parts, x_episode_id: Annotated[str | None, Header()] = None,
               authorization: Annotated[str | None, Header()] = None) -> Response:
    """Answer a conversation; the episode is named by header, by its own key, or by the conversation itself."""
    return await _answer(body, parts, x_episode_id, authorization)


@router.post("/episodes/{episode_id}/v1/chat/completions", response_model=None)
async def chat_in_episode(body: ChatRequest, parts: Parts, episode_id: Annotated[str, Path()],
                          authorization: Annotated[str | None, Header()] = None) -> Response:
    """The same; the episode is named by the base URL."""
    return await _answer(body, parts, episode_id, authorization)


async def _answer(body: ChatRequest, parts: Parts, named: str | None, authorization: str | None) -> Response:
    messages = body.checked_messages()
    params = body.sampling(parts.engine.context_tokens)
    scheme, _, key = (authorization or "").partition(" ")
    key = key if scheme.lower() == "bearer" else ""
    episode = await find_episode(parts.episodes, named=named, key=key, messages=messages)
    unnamed = named is None and not key.startswith("ep-")
    asked = body.model_dump(mode="json")
    if episode is None:
        episode = await _open_live(body, parts, messages, key)
    version = parts.pointers.for_episode(episode, body.model, parts.engine)
    try:
        turn = parts.turns.begin(episode, messages, params, version, asked)
    except HorizonReached:
        if not episode.answering:  # Its last turns may still be on their way into the record.
            await parts.episodes.end(episode, "truncated", reason="horizon")
        if not unnamed:
            raise
        # An agent that knows nothing of episodes goes on talking, in the next one.
        episode = await _open_live(body, parts, messages, key)
        version = episode.policy_version
        turn = parts.turns.begin(episode, messages, params, version, asked)
    if body.stream:
        first = await _first(turn)
        return StreamingResponse(_stream(body, parts, turn, first), media_type="text/event-stream", headers={
            "x-episode-id": episode.id, "x-turn-id": turn.id, "x-policy-version": str(version)})
    answer = await turn.answer()
    choice = {"index": 0, "message": {"role": "assistant", "content": answer.text, "refusal": None},
              "finish_reason": _finish(answer), "logprobs": _logprobs(body, parts, answer)}
    return JSONResponse(
        {"id": f"chatcmpl-{answer.turn_id}", "object": "chat.completion", "created": int(time.time()),
         "model": f"{parts.pointers.name}@{answer.version}", "choices": [choice], "usage": _usage(answer)},
        headers={"x-episode-id": answer.episode_id, "x-turn-id": answer.turn_id,
                 "x-policy-version": str(answer.version)})


async def _open_live(body: ChatRequest, parts: Parts, messages: list[dict[str, Any]], key: str) -> Episode:
    """Open an episode for a conversation that belongs to none, if it can be answered at all."""
    version = parts.pointers.resolve(body.model, parts.engine)
    parts.turns.check(messages)
    episode, _ = await parts.episodes.open(EpisodeOpen(), policy_version=version, owner_hash=hash_of(key),
                                           horizon=parts.settings.default_horizon)
    return episode


async def _first(turn: Turn) -> str | None:
    """Wait for the first text, so that a failure before it is still a proper HTTP error."""
    piece = await turn.text.get()
    if piece is None:
        await turn.answer()
    return piece


async def _stream(body: ChatRequest, parts: Parts, turn: Turn, first: str | None) -> AsyncIterator[str]:
    """Yield chunks. A client that goes away abandons the turn: sampling stops, what there is gets recorded."""
    head = {"id": f"chatcmpl-{turn.id}", "object": "chat.completion.chunk", "created": int(time.time()),
            "model": body.model}

    def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None, **more}
        return _event({**head, "choices": [choice]})

    finished = False
    try:
        yield chunk({"role": "assistant", "content": ""})
        if first is not None:
            yield chunk({"content": first})
            async for piece in turn.pieces():
                yield chunk({"content": piece})
        answer = await turn.answer()
        finished = True
        head["model"] = f"{parts.pointers.name}@{answer.version}"
        yield chunk({}, _finish(answer), logprobs=_logprobs(body, parts, answer))
        if body.stream_options and body.stream_options.include_usage:
            yield _event({**head, "choices": [], "usage": _usage(answer)})
        yield "data: [DONE]\n\n"
    except UpturnError as error:
        finished = True
        yield _event(error.body())
    finally:
        if not finished:
            turn.leave()


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def _finish(answer: Answer) -> str:
    return "length" if answer.finish_reason == "length" else "stop"


def _usage(answer: Answer) -> dict[str, int]:
    return {"prompt_tokens": answer.prompt_tokens, "completion_tokens": len(answer.token_ids),
            "total_tokens": answer.prompt_tokens + len(answer.token_ids)}


def _logprobs(body: ChatRequest, parts: Parts, answer: Answer) -> dict[str, Any] | None:
    if not body.logprobs:
        return None
    tops = answer.top_logprobs or [{}] * len(answer.token_ids)
    return {"refusal": None, "content": [
        {**_token(parts, token, logprob),
         "top_logprobs": [_token(parts, other, value) for other, value in sorted(
             top.items(), key=lambda pair: -pair[1])]}
        for token, logprob, top in zip(answer.token_ids, answer.logprobs, tops, strict=True)]}


def _token(parts: Parts, token: int, logprob: float) -> dict[str, Any]:
    text = parts.turns.text_of(token)
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}
