"""One turn from messages to recorded answer: render, sample, read, record. Requests and plays both come through here.

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

from server.engines.protocol import Engine, Piece, SamplingParams, spans_of
from server.errors import BadRequest, ContextTooLong, EngineError, UpturnError
from server.recording.episode import Episode, Episodes
from server.recording.recorder import NewTurn, Prompt, Recorder, Span
from server.recording.replay import Recorded
from server.recording.tokens import chain_hashes, digest
from server.rendering.answers import AnswerFormat, AnswerReader, Delta, Part, ToolCall
from server.rendering.hermes import HERMES_CALLS
from server.rendering.render import Renderer
from server.rendering.tool_calls import CALL_CLOSE, call_schema
from server.store.database import new_id


@dataclass(frozen=True, slots=True)
class Ask:
    """What one chat request asks for."""

    messages: list[dict[str, Any]]
    sampling: SamplingParams
    prompt_ids: list[int] | None = None
    """The whole prompt, where the caller does without messages; these then only say what it was."""
    tools: list[dict[str, Any]] = field(default_factory=list)
    template_options: dict[str, Any] = field(default_factory=dict)
    """What the model's form of a conversation is told beside (`chat_template_kwargs`)."""
    call: str | None = None
    """The tool that has to be called; empty is any, None leaves it to the model."""
    reads_calls: bool = True
    """False shows calls as the text they are (OpenAI's `tool_choice: none`)."""
    parallel_calls: bool = True
    count: int = 1
    """Answers to the same prompt."""
    whole: bool = False
    """Nobody reads an answer before its end."""
    digest: str = ""
    """SHA-256 of the request; the same one at the same time in an episode is answered once."""
    owner: str = ""
    """SHA-256 of the caller's key."""
    idempotency_key: str | None = None

    @property
    def frame(self) -> list[dict[str, Any]]:
        """What the messages stand in; the same ones in another frame are another conversation."""
        return [*self.tools, {"chat_template_kwargs": self.template_options}] if self.template_options else self.tools


@dataclass(frozen=True, slots=True)
class Answer:
    """A recorded turn, as the API shows it."""

    turn_id: str
    episode_id: str
    message: dict[str, Any]
    """The assistant's message."""
    finish_reason: str
    prompt_tokens: int
    token_ids: list[int]
    logprobs: list[float]
    top_logprobs: list[dict[int, float]] | None
    version: int

    @property
    def text(self) -> str:
        """The content, empty where there is none."""
        return self.message["content"] or ""


@dataclass(slots=True, eq=False)
class Turn:
    """A turn in progress: deltas as they are sampled, then the recorded answer."""

    id: str
    episode_id: str
    version: int
    """Where the answer begins; a swap in the middle shows in the answer itself."""
    digest: str = ""
    owner: str = ""
    whole: bool = False
    """Nothing of it is known before its end."""
    deltas: asyncio.Queue[Delta | None] = field(default_factory=asyncio.Queue)
    """Pieces of the answer; None at the end."""
    done: asyncio.Future[Answer] | None = None
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

    async def pieces(self) -> AsyncIterator[Delta]:
        """Yield the answer as it comes; afterwards `answer()` is ready or raises."""
        while (piece := await self.deltas.get()) is not None:
            yield piece

    async def answer(self) -> Answer:
        """Wait for the recorded answer."""
        assert self.done is not None
        return await asyncio.shield(self.done)

    def follow(self) -> Turn:
        """Return a turn that waits for this one's answer and shows it in one piece."""
        assert self.done is not None
        self.readers += 1
        turn = Turn(self.id, self.episode_id, self.version, done=self.done, twin=self)

        def show(done: asyncio.Future[Answer]) -> None:
            if not done.cancelled() and done.exception() is None:
                turn._show(done.result().message)
            turn.deltas.put_nowait(None)

        self.done.add_done_callback(show)
        return turn

    @classmethod
    def recorded(cls, answer: Answer) -> Turn:
        """Return a turn that was recorded before and is shown again."""
        turn = cls(answer.turn_id, answer.episode_id, answer.version, done=asyncio.get_running_loop().create_future())
        assert turn.done is not None
        turn.done.set_result(answer)
        turn._show(answer.message)
        turn.deltas.put_nowait(None)
        return turn

    def show(self, deltas: list[Delta]) -> None:
        """Pass on what was read."""
        for delta in deltas:
            self.deltas.put_nowait(delta)

    def _show(self, message: dict[str, Any]) -> None:
        """Put a whole message into the deltas."""
        if message.get("reasoning_content") or message["content"]:
            self.deltas.put_nowait(Delta(message["content"] or "", message.get("reasoning_content") or ""))
        for position, call in enumerate(message.get("tool_calls", [])):
            said = call["function"]
            self.deltas.put_nowait(Delta(call=ToolCall(position, call["id"], said["name"], said["arguments"])))


class Turns:
    """Takes turns for any episode."""

    def __init__(self, engine: Engine, renderer: Renderer, recorder: Recorder, episodes: Episodes) -> None:
        self._engine = engine
        self._renderer = renderer
        self._recorder = recorder
        self._episodes = episodes
        self._running: dict[asyncio.Task[Answer], Turn] = {}
        self._requests: dict[tuple[str, str], list[Turn]] = {}
        """Requests being answered, by caller and digest."""

    def begin(self, episode: Episode, ask: Ask, version: int, whole_ids: list[int] | None = None) -> list[Turn]:
        """Check and render a request, count it against the horizon, and start sampling: one turn for each answer.

        The same request while its twin is still being answered gets the twin's answer. `whole_ids` is what `check`
        returned, where nothing of the conversation can have been recorded.

        Raises:
            HorizonReached, ContextTooLong, BadRequest: nothing was counted or recorded.
            EngineError: the engine cannot answer now; the episode is as before.
        """
        twins: list[Turn] = episode.answering.get(ask.digest, []) if ask.digest else []
        if twins and not any(twin.abandoned for twin in twins):
            return [twin.follow() for twin in twins]
        self._must_answer(ask)
        episode.must_be_open()
        prompt, form = self._prompt(episode, ask, whole_ids)
        room = self._room(prompt.ids)
        indexes = self._episodes.begin_turn(episode, ask.count)
        turns = [Turn(new_id("turn"), episode.id, version, ask.digest, ask.owner, ask.whole) for _ in indexes]
        episode.answering[ask.digest] = self._requests[ask.owner, ask.digest] = turns
        for choice, (turn, index) in enumerate(zip(turns, indexes, strict=True)):
            task = asyncio.create_task(self._take(turn, episode, ask, prompt, form, version, index, choice, room))
            turn.done, self._running[task] = task, turn
            task.add_done_callback(lambda done, turn=turn: self._finished(done, turn, episode, turns))  # type: ignore[misc]
        return turns

    @property
    def busy(self) -> int:
        """Answers being sampled or recorded."""
        return len(self._running)

    def versions(self) -> set[int]:
        """Versions that answers in progress began on."""
        return {turn.version for turn in self._running.values()}

    def in_progress(self, ask: Ask) -> list[Turn]:
        """Return the turns that answer the same request of the same caller right now; none where there are none."""
        found = self._requests.get((ask.owner, ask.digest), [])
        return [] if any(turn.abandoned for turn in found) else [turn.follow() for turn in found]

    def again(self, recorded: list[Recorded]) -> list[Turn]:
        """Return the turns of a request that was answered before."""
        return [
            Turn.recorded(
                Answer(
                    turn_id=r.turn.id,
                    episode_id=r.turn.episode_id,
                    message=r.turn.answer,
                    finish_reason=r.turn.finish_reason,
                    prompt_tokens=r.turn.prompt_tokens,
                    token_ids=r.token_ids,
                    logprobs=r.logprobs,
                    top_logprobs=None,
                    version=r.turn.policy_version or 0,
                )
            )
            for r in recorded
        ]

    def check(self, ask: Ask) -> list[int]:
        """Refuse a conversation that could not be answered, before an episode is opened; return its rendered ids.

        Raises:
            ContextTooLong, BadRequest: it does not fit, or the chat template refuses it.
            EngineError: the engine cannot answer now.
        """
        self._must_answer(ask)
        ids = ask.prompt_ids
        if ids is None:
            ids = self._renderer.prompt(ask.messages, ask.tools, ask.template_options)
        self._room(ids)
        return ids

    async def demonstrate(self, episode: Episode, messages: list[dict[str, Any]], text: str) -> None:
        """Record an answer that the policy did not sample (an oracle's, a person's)."""
        prompt, _ = self._prompt(episode, Ask(messages, SamplingParams(1)))
        answer_ids = [*self._renderer.tokenizer.encode(text), *self._renderer.end_ids]
        await self._recorder.record(
            episode,
            NewTurn(
                id=new_id("turn"),
                index=self._episodes.begin_turn(episode)[0],
                digest=digest(messages),
                prompt=prompt,
                answer={"role": "assistant", "content": text},
                spans=[Span(None, answer_ids, None)],
            ),
        )

    def text_of(self, token_id: int) -> str:
        """Return one token's text."""
        return self._renderer.tokenizer.decode([token_id])

    async def drain(self) -> None:
        """Stop sampling and wait until every turn in progress is recorded as far as it came.

        Of an answer that is sampled whole nothing has come, and nothing is recorded. What is being written is written.
        """
        for task, turn in self._running.items():
            turn.readers = 0
            if turn.whole:
                task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _must_answer(self, ask: Ask) -> None:
        if not self._engine.available:
            raise EngineError("the engine is starting; try again in a moment")
        if (ask.call is not None or ask.sampling.json_schema is not None) and not self._engine.constrains:
            raise BadRequest(
                "this engine cannot hold an answer to a schema: response_format and a forced tool_choice "
                "need the engine vllm",
                code="unsupported_parameter",
            )

    def _room(self, prompt_ids: list[int]) -> int:
        """Return how many tokens an answer may have."""
        room = self._engine.context_tokens - len(prompt_ids)
        if room < 1:
            raise ContextTooLong(
                f"the prompt has {len(prompt_ids)} tokens; the model's context is {self._engine.context_tokens} tokens "
                "for prompt and answer",
                param="messages",
            )
        return room

    def _prompt(self, episode: Episode, ask: Ask, whole_ids: list[int] | None = None) -> tuple[Prompt, AnswerFormat]:
        """Return the prompt, on the longest recorded part of the conversation, and how its answer is to be read."""
        hashes = chain_hashes(ask.messages, ask.frame)
        if ask.prompt_ids is not None:
            whole = ask.prompt_ids
            prompt = Prompt(whole, None, whole, ask.messages, hashes[-1], forked=episode.newest is not None)
            return prompt, AnswerFormat(ask.sampling.stop)
        known, parent, recorded, new_ids = 0, None, list[int](), None
        for position in range(len(hashes) - 1, -1, -1):
            if (tail := episode.tails.get(hashes[position])) is not None:
                path = tail.path()
                new_ids = self._renderer.follow(ask.messages, position + 1, path, ask.tools, ask.template_options)
                if new_ids is not None:
                    known, parent, recorded = position + 1, tail, path
                    break
        if new_ids is None:
            new_ids = whole_ids or self._renderer.prompt(ask.messages, ask.tools, ask.template_options)
        parser = self._renderer.parser(recorded + new_ids, ask.tools, ask.template_options)
        begins: Part = "reasoning" if parser.in_thoughts else "content"
        if ask.call is not None:  # A forced call is JSON: a grammar of the engine's holds it, and no parser is needed.
            new_ids = [*new_ids, *self._renderer.forced_call(after_reasoning=begins == "reasoning")]
            begins, parser = "call", HERMES_CALLS
        forked = episode.newest is not None if parent is None else hashes[known - 1] != episode.newest
        prompt = Prompt(recorded + new_ids, parent, new_ids, ask.messages[known:], hashes[-1], forked)
        return prompt, AnswerFormat(
            ask.sampling.stop,
            tools=bool(ask.tools) and ask.reads_calls,
            reasons=self._renderer.reasons,
            begins=begins,
            parser=parser,
            one_call=not ask.parallel_calls,
        )

    async def _take(
        self,
        turn: Turn,
        episode: Episode,
        ask: Ask,
        prompt: Prompt,
        form: AnswerFormat,
        version: int,
        index: int,
        choice: int,
        room: int,
    ) -> Answer:
        began = time.perf_counter()
        reader = AnswerReader(self._renderer.tokenizer, form)
        params = replace(_params(ask, choice, room), stop_ids=self._renderer.stop_ids)
        pieces: list[Piece] = []
        try:
            # aclosing: an abandoned answer frees the engine at once, not when the iterator is collected.
            async with aclosing(self._engine.generate(version, prompt.ids, params, whole=ask.whole)) as answer:
                async for piece in answer:
                    pieces.append(piece)
                    if not ask.whole:  # Else nobody hears of the episode before its first turn is durable.
                        await episode.opened()
                    turn.show(reader.push(piece.token_ids))
                    if turn.abandoned:
                        break
            turn.show(reader.finish())
            finish_reason = next((p.finish_reason for p in reversed(pieces) if p.finish_reason), "abort")
            spans = _spans(pieces)
            await self._recorder.record(
                episode,
                NewTurn(
                    id=turn.id,
                    index=index,
                    digest=ask.digest,
                    prompt=prompt,
                    spans=spans,
                    answer=reader.message,
                    finish_reason=finish_reason,
                    temperature=params.temperature,
                    choice=choice,
                    idempotency_key=ask.idempotency_key,
                    duration_ms=1000 * (time.perf_counter() - began),
                    untrainable_reason=_untrainable(params, spans, turn.abandoned, finish_reason),
                ),
            )
        except EngineError as error:
            episode.turns -= choice == 0
            await self._episodes.end(episode, "error", error_class=type(error).__name__, reason=error.message)
            raise
        except UpturnError:
            episode.turns -= choice == 0
            raise
        finally:
            turn.deltas.put_nowait(None)
        return Answer(
            turn_id=turn.id,
            episode_id=episode.id,
            message=reader.message,
            finish_reason=finish_reason,
            prompt_tokens=len(prompt.ids),
            token_ids=[t for p in pieces for t in p.token_ids],
            logprobs=[x for p in pieces for x in p.logprobs],
            top_logprobs=[x for p in pieces for x in p.top_logprobs or []] if params.top_logprobs else None,
            version=pieces[-1].version if pieces else version,
        )

    def _finished(self, done: asyncio.Task[Answer], turn: Turn, episode: Episode, turns: list[Turn]) -> None:
        del self._running[done]
        if not done.cancelled():
            done.exception()  # Seen: whoever waits for the answer gets it, and after a disconnect nobody does.
        if all(t.done is not None and t.done.done() for t in turns):
            if episode.answering.get(turn.digest) is turns:
                del episode.answering[turn.digest]
            if self._requests.get((turn.owner, turn.digest)) is turns:
                del self._requests[turn.owner, turn.digest]


def _params(ask: Ask, choice: int, room: int) -> SamplingParams:
    """Return the engine's parameters for one of a request's answers."""
    params = replace(ask.sampling, max_tokens=min(ask.sampling.max_tokens, room))
    if params.seed is not None and choice:
        params = replace(params, seed=params.seed + choice)
    if ask.call is not None:
        params = replace(params, json_schema=call_schema(ask.tools, ask.call or None))
    if ask.tools and not ask.parallel_calls:
        params = replace(params, stop=(*params.stop, CALL_CLOSE))
    return params


def _spans(pieces: list[Piece]) -> list[Span]:
    """Return an answer's tokens and logprobs by version."""
    ids = [token for piece in pieces for token in piece.token_ids]
    logprobs = [value for piece in pieces for value in piece.logprobs]
    return [Span(version, ids[first:end], logprobs[first:end]) for version, first, end in spans_of(pieces)]


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
    if params.json_schema is not None:
        return "constrained_sampling"
    return "changed_sampling" if params.extra else None
