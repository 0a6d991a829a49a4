"""One turn from messages to recorded answer: render, sample, record. Chat requests and plays both come through here.

A turn runs in a task of its own: a client that goes away stops the sampling but never the recording.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from server.errors import ContextTooLong, EngineError, UpturnError
from server.policy.engine import Engine, Piece, SamplingParams
from server.policy.render import Renderer, TextStream
from server.recording.episode import Episode, Episodes
from server.recording.recorder import NewTurn, Prompt, Recorder, Span
from server.recording.tokens import chain_hashes, digest
from server.store.database import new_id


@dataclass(frozen=True, slots=True)
class Answer:
    """A recorded turn, as the API shows it."""

    turn_id: str
    episode_id: str
    text: str
    finish_reason: str
    prompt_tokens: int
    token_ids: list[int]
    logprobs: list[float]
    top_logprobs: list[dict[int, float]] | None
    version: int


@dataclass(slots=True)
class Turn:
    """A turn in progress: text as it is sampled, then the recorded answer."""

    id: str
    text: asyncio.Queue[str | None] = field(default_factory=asyncio.Queue)
    """Pieces of text; None at the end."""
    task: asyncio.Task[Answer] | None = None
    readers: int = 1
    """Requests that wait for it. With none left the sampling stops, and what there is gets recorded."""
    twin: Turn | None = None
    """The turn whose answer this one only shows."""

    @property
    def abandoned(self) -> bool:
        """Nobody reads any more."""
        return self.readers <= 0

    def leave(self) -> None:
        """A reader has gone away."""
        (self.twin or self).readers -= 1

    async def pieces(self) -> AsyncIterator[str]:
        """Yield the text as it comes; afterwards `answer()` is ready or raises."""
        while (piece := await self.text.get()) is not None:
            yield piece

    async def answer(self) -> Answer:
        """Wait for the recorded answer."""
        assert self.task is not None
        return await asyncio.shield(self.task)


class Turns:
    """Takes turns for any episode."""

    def __init__(self, engine: Engine, renderer: Renderer, recorder: Recorder, episodes: Episodes) -> None:
        self._engine = engine
        self._renderer = renderer
        self._recorder = recorder
        self._episodes = episodes
        self._running: dict[asyncio.Task[Answer], Turn] = {}

    def begin(self, episode: Episode, messages: list[dict[str, Any]], params: SamplingParams, version: int,
              body: Any = None) -> Turn:
        """Check and render a request, count it against the horizon, and start sampling.

        The same request while its twin is still being answered gets the twin's answer.

        Raises:
            HorizonReached, ContextTooLong, BadRequest: nothing was counted or recorded.
            EngineError: the engine cannot answer now; the episode is as before.
        """
        request_digest = digest(body if body is not None else messages)
        twin = episode.answering.get(request_digest)
        if twin is not None and not twin.abandoned:
            return _follow(twin)
        self._must_answer()
        episode.must_be_open()
        prompt = self._prompt(episode, messages)
        room = self._room(prompt.ids)
        index = self._episodes.begin_turn(episode)
        turn = Turn(new_id("turn"))
        task = asyncio.create_task(self._take(turn, episode, prompt, params, version, index, request_digest, room))
        turn.task = task
        episode.answering[request_digest] = turn
        self._running[task] = turn

        def finished(done: asyncio.Task[Answer]) -> None:
            del self._running[done]
            if episode.answering.get(request_digest) is turn:
                del episode.answering[request_digest]
            if not done.cancelled():
                done.exception()  # Seen: whoever waits for the answer gets it, and after a disconnect nobody does.

        task.add_done_callback(finished)
        return turn

    def check(self, messages: list[dict[str, Any]]) -> None:
        """Refuse a conversation that could not be answered, before an episode is opened for it.

        Raises:
            ContextTooLong, BadRequest: it does not fit, or the chat template refuses it.
            EngineError: the engine cannot answer now.
        """
        self._must_answer()
        self._room(self._renderer.prompt(messages))

    async def demonstrate(self, episode: Episode, messages: list[dict[str, Any]], text: str) -> None:
        """Record an answer that the policy did not sample (an oracle's, a person's)."""
        prompt = self._prompt(episode, messages)
        answer_ids = [*self._renderer.tokenizer.encode(text), *self._renderer.end_ids]
        await self._recorder.record(episode, NewTurn(
            id=new_id("turn"), index=self._episodes.begin_turn(episode), digest=digest(messages), prompt=prompt,
            answer={"role": "assistant", "content": text}, spans=[Span(None, answer_ids, None)]))

    def text_of(self, token_id: int) -> str:
        """Return one token's text."""
        return self._renderer.tokenizer.decode([token_id])

    async def drain(self) -> None:
        """Stop sampling and wait until every turn in progress is recorded as far as it came."""
        for turn in self._running.values():
            turn.readers = 0
        await asyncio.gather(*self._running, return_exceptions=True)

    def _must_answer(self) -> None:
        if not self._engine.available:
            raise EngineError("the engine is starting; try again in a moment")

    def _room(self, prompt_ids: list[int]) -> int:
        """Return how many tokens an answer may have."""
        room = self._engine.context_tokens - len(prompt_ids)
        if room < 1:
            raise ContextTooLong(
                f"the prompt has {len(prompt_ids)} tokens; the model's context is {self._engine.context_tokens} tokens "
                "for prompt and answer", param="messages")
        return room

    def _prompt(self, episode: Episode, messages: list[dict[str, Any]]) -> Prompt:
        hashes = chain_hashes(messages)
        for position in range(len(hashes) - 1, -1, -1):
            tail = episode.tails.get(hashes[position])
            if tail is None:
                continue
            path = tail.path()
            new_ids = self._renderer.continuation(messages, position + 1, path[-1])
            if new_ids is not None:
                return Prompt(path + new_ids, tail, new_ids, messages[position + 1 :], hashes[-1],
                              forked=hashes[position] != episode.newest)
        ids = self._renderer.prompt(messages)
        return Prompt(ids, None, ids, messages, hashes[-1], forked=episode.newest is not None)

    async def _take(self, turn: Turn, episode: Episode, prompt: Prompt, params: SamplingParams, version: int,
                    index: int, request_digest: str, room: int) -> Answer:
        began = time.perf_counter()
        stream = TextStream(self._renderer.tokenizer, params.stop)
        pieces: list[Piece] = []
        try:
            params_here = replace(params, max_tokens=min(params.max_tokens, room))
            # aclosing: an abandoned answer frees the engine at once, not when the iterator is collected.
            async with aclosing(self._engine.generate(version, prompt.ids, params_here)) as answer:
                async for piece in answer:
                    pieces.append(piece)
                    if text := stream.push(piece.token_ids):
                        turn.text.put_nowait(text)
                    if turn.abandoned:
                        break
            if text := stream.finish():
                turn.text.put_nowait(text)
            finish_reason = next((p.finish_reason for p in reversed(pieces) if p.finish_reason), "abort")
            spans = _spans(pieces)
            await self._recorder.record(episode, NewTurn(
                id=turn.id, index=index, digest=request_digest, prompt=prompt, spans=spans,
                answer={"role": "assistant", "content": stream.text}, finish_reason=finish_reason,
                temperature=params.temperature, duration_ms=1000 * (time.perf_counter() - began),
                untrainable_reason=_untrainable(params, spans, turn.abandoned, finish_reason)))
        except EngineError as error:
            episode.turns -= 1
            await self._episodes.end(episode, "error", error_class=type(error).__name__, reason=error.message)
            raise
        except UpturnError:
            episode.turns -= 1
            raise
        finally:
            turn.text.put_nowait(None)
        return Answer(
            turn_id=turn.id, episode_id=episode.id, text=stream.text, finish_reason=finish_reason,
            prompt_tokens=len(prompt.ids), token_ids=[t for p in pieces for t in p.token_ids],
            logprobs=[x for p in pieces for x in p.logprobs],
            top_logprobs=[x for p in pieces for x in p.top_logprobs or []] if params.top_logprobs else None,
            version=pieces[-1].version if pieces else version)


def _follow(twin: Turn) -> Turn:
    """Return a turn that waits for its twin's answer and shows it in one piece."""
    assert twin.task is not None
    twin.readers += 1
    turn = Turn(twin.id, task=twin.task, twin=twin)

    def show(done: asyncio.Task[Answer]) -> None:
        if not done.cancelled() and done.exception() is None:
            turn.text.put_nowait(done.result().text)
        turn.text.put_nowait(None)

    twin.task.add_done_callback(show)
    return turn


def _spans(pieces: list[Piece]) -> list[Span]:
    """Join neighbouring pieces of the same version."""
    spans: list[Span] = []
    for piece in pieces:
        if not piece.token_ids:
            continue
        if spans and spans[-1].version == piece.version and spans[-1].logprobs is not None:
            spans[-1].token_ids.extend(piece.token_ids)
            spans[-1].logprobs.extend(piece.logprobs)
        else:
            spans.append(Span(piece.version, list(piece.token_ids), list(piece.logprobs)))
    return spans


def _untrainable(params: SamplingParams, spans: list[Span], abandoned: bool, finish_reason: str) -> str | None:
    """Return why the learner must not train on a turn, or None."""
    if abandoned:
        return "disconnected"
    if finish_reason == "abort":
        return "aborted"
    if not spans:
        return "empty"
    if any(len(span.token_ids) != len(span.logprobs or []) for span in spans):
        return "logprobs_missing"
    if not all(math.isfinite(x) for span in spans for x in span.logprobs or []):
        return "logprobs_not_finite"
    if params.temperature == 0:
        return "greedy"
    if params.top_p != 1 or params.top_k != 0:
        return "truncated_sampling"
    return "changed_sampling" if params.extra else None
