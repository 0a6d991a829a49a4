"""Takes turns (steps 2 to 4 of the straight line), for API requests and plays alike.

A request is checked, rendered and counted here; each of its answers is then sampled and recorded in a task of its own
(`sampler.py`). A client that disconnects stops the sampling but never the recording.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from server import heavy
from server.engines.protocol import Engine, SamplingParams
from server.errors import BadRequest, ContextTooLong, EngineError, Unavailable
from server.recording.episode import Episode
from server.recording.episodes import Episodes
from server.recording.prompts import render_prompt, with_prefill
from server.recording.recorder import NewTurn, Recorder, Span
from server.recording.replay import key_conflict
from server.recording.sampler import Plan, Sampler
from server.recording.tokens import digest
from server.recording.trainable import NO_TRAIN, reason_in_request
from server.recording.turn import Answer, Beginning, Turn
from server.recording.turn_request import TurnRequest
from server.rendering.render import Renderer
from server.store.database import new_id


class Turns:
    """Takes turns in any episode."""

    def __init__(self, engine: Engine, renderer: Renderer, recorder: Recorder, episodes: Episodes) -> None:
        self._engine = engine
        self._renderer = renderer
        self._recorder = recorder
        self._sampler = Sampler(engine, renderer.tokenizer, recorder, episodes)
        self._running: dict[asyncio.Future[Answer], Plan] = {}
        self._requests: dict[str, tuple[TurnRequest, list[Turn]]] = {}
        """Requests in progress with their turns, by the first turn's id."""
        self._keyed: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        """Locks of the requests that are about to begin, by owner and idempotency key."""
        self._beginning: dict[tuple[str, str], set[asyncio.Future[None]]] = {}
        """The other requests that are about to begin, by owner and digest."""

    async def begin(
        self, episode: Episode, request: TurnRequest, version: int, whole_ids: list[int] | None = None
    ) -> list[Turn]:
        """Check and render a request, count it against the horizon, and start sampling: one turn per answer.

        Args:
            episode: where the turns belong.
            request: the request to answer.
            version: policy version that begins to sample.
            whole_ids: [T] what `check` returned, for an episode that has no recorded turns.

        Raises:
            HorizonReached, ContextTooLong, BadRequest, Conflict: nothing was counted or recorded.
            EngineError: the engine cannot answer now; the episode is unchanged.
        """
        self._check_engine(request)
        episode.must_be_open()
        rendered = await heavy.run(request.weight, lambda: render_prompt(self._renderer, episode, request, whole_ids))
        room = self._room(rendered.prompt.ids)
        params = [request.params(choice, room, self._renderer.stop_ids) for choice in range(request.count)]
        turns = [
            self._start(
                Plan(
                    turn_id=new_id("turn"),
                    index=index,
                    choice=choice,
                    version=version,
                    beginning=Beginning(version),
                    episode=episode,
                    request=request,
                    rendered=rendered,
                    params=params[choice],
                )
            )
            for choice, index in enumerate(episode.begin_turn(request.count))
        ]
        episode.answering[turns[0].id] = turns
        self._requests[turns[0].id] = request, turns
        for turn in turns:
            turn.done.add_done_callback(partial(self._finished, turns))
        return turns

    @property
    def busy(self) -> int:
        """Number of answers being sampled or recorded."""
        return len(self._running)

    def versions(self) -> set[int]:
        """Return the policy versions on which answers in progress began."""
        return {plan.version for plan in self._running.values()}

    @asynccontextmanager
    async def beginning(self, request: TurnRequest) -> AsyncIterator[None]:
        """Let the copies of one request begin one after the other, so that each finds the turns of those before it.

        Requests with one idempotency key are copies, and so is what a client marks as a retry. Other requests, however
        much they are alike, wait for nothing.
        """
        if request.idempotency_key is not None:
            async with self._keyed.setdefault((request.owner, request.idempotency_key), asyncio.Lock()):
                yield
            return
        identity = request.owner, request.digest
        if request.retry and (earlier := self._beginning.get(identity)):
            await asyncio.wait(earlier)
        begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._beginning.setdefault(identity, set()).add(begun)
        try:
            yield
        finally:
            begun.set_result(None)
            self._beginning[identity].remove(begun)
            if not self._beginning[identity]:
                del self._beginning[identity]

    def in_progress(self, request: TurnRequest, episode_id: str | None) -> list[Turn]:
        """Return turns that share the answers to an earlier copy of a request; empty if there is none.

        Args:
            request: the request. Its idempotency key identifies it. Without one it must be marked as a retry, and its
                digest identifies it.
            episode_id: the episode that the request names.

        Raises:
            Conflict: the idempotency key belongs to another request.
        """
        key = request.idempotency_key
        found: list[Turn] = []
        for earlier, turns in self._requests.values():
            if (earlier.owner, earlier.idempotency_key) != (request.owner, key):
                continue
            if episode_id not in (None, turns[0].episode_id):
                continue
            if earlier.digest != request.digest:
                if key is not None:
                    raise key_conflict(key)
                continue
            joins = (key or request.retry) and not any(turn.abandoned for turn in turns)
            if joins and (not found or turns[0].readers.count <= 0):  # Best is the copy whose client has left.
                found = turns
        return [turn.follow() for turn in found]

    def again(self, answers: list[Answer], prefill: str = "") -> list[Turn]:
        """Return turns that show answers recorded earlier, each without the beginning that the caller wrote."""
        return [Turn.recorded(answer.without(prefill)) for answer in answers]

    async def hide(self, turn_id: str, *, owner: str, episode_id: str | None) -> bool:
        """Hide a recorded turn from its caller and keep it from training; return whether there was one to hide."""
        return await self._recorder.hide(turn_id, owner=owner, episode_id=episode_id)

    def check_length(self, request: TurnRequest) -> None:
        """Refuse a prompt that has too many characters for the model's context, before it is rendered.

        Raises:
            ContextTooLong: it certainly does not fit.
        """
        if request.prompt_ids is None:
            self.check_text(sum(map(_characters, request.messages)))

    def check_text(self, characters: int) -> None:
        """Refuse a text of this many characters if it certainly does not fit the model's context.

        Raises:
            ContextTooLong: it does not.
        """
        longest, most = self._renderer.tokenizer.longest, self._engine.context_tokens
        if longest is not None and characters > most * longest:
            raise ContextTooLong.of(-(-characters // longest), most, at_least=True)

    async def check(self, request: TurnRequest) -> list[int]:
        """Refuse a request that cannot be answered, before an episode is opened for it.

        Returns:
            [T] the rendered prompt.

        Raises:
            ContextTooLong, BadRequest: the prompt does not fit, or the chat template refuses it.
            EngineError: the engine cannot answer now.
        """
        self._check_engine(request)
        ids = request.prompt_ids
        if ids is None:
            ids = await heavy.run(
                request.weight,
                lambda: self._renderer.prompt(request.messages, request.tools, request.template_options),
            )
        self._room(with_prefill(self._renderer, request, ids))
        return ids

    async def demonstrate(self, episode: Episode, messages: list[dict[str, Any]], text: str) -> None:
        """Record an answer that the policy did not sample, such as a solver's."""
        rendered = render_prompt(self._renderer, episode, TurnRequest(messages, SamplingParams(1)))
        answer_ids = [*self._renderer.text(text), *self._renderer.end_ids]
        await self._recorder.record(
            episode,
            NewTurn(
                id=new_id("turn"),
                index=episode.begin_turn()[0],
                digest=digest(messages),
                prompt=rendered.prompt,
                answer={"role": "assistant", "content": text},
                spans=[Span(None, answer_ids, None)],
            ),
        )

    async def drain(self) -> None:
        """Stop sampling, then wait until every turn in progress is recorded as far as it got; its readers get a 503."""
        for plan in self._running.values():
            plan.readers.stop(Unavailable("the server is stopping; try again in a moment", code="draining"))
        await asyncio.gather(*self._running, return_exceptions=True)

    def _check_engine(self, request: TurnRequest) -> None:
        """Refuse a request that the engine cannot answer now, or at all."""
        if not self._engine.available:
            raise EngineError("the engine is starting; try again in a moment")
        if (request.call is not None or request.sampling.json_schema is not None) and not self._engine.constrains:
            raise BadRequest(
                "this engine does not support constrained decoding: response_format and a forced tool_choice "
                "need the engine vllm",
                code="unsupported_parameter",
            )
        for name in sorted(request.sampling.extra.keys() - self._engine.fields):
            raise BadRequest(
                f"this engine does not support {name!r}: it needs the engine vllm",
                param=name,
                code="unsupported_parameter",
            )

    def _room(self, prompt_ids: list[int]) -> int:
        """Return how many tokens of context are left for an answer."""
        room = self._engine.context_tokens - len(prompt_ids)
        if room < 1:
            raise ContextTooLong.of(len(prompt_ids), self._engine.context_tokens)
        return room

    def _start(self, plan: Plan) -> Turn:
        task = asyncio.create_task(self._sampler.sample(plan))
        self._running[task] = plan
        return Turn(
            plan.turn_id,
            plan.episode.id,
            plan.beginning,
            task,
            plan.readers,
            plan.deltas,
            reason_in_request(plan.params) or (None if plan.episode.trainable else NO_TRAIN),
            plan.rendered.prompt.ids,
        )

    def _finished(self, turns: list[Turn], done: asyncio.Future[Answer]) -> None:
        """Forget a turn that has ended, and its request once all of its turns have."""
        plan = self._running.pop(done)
        if not done.cancelled():
            done.exception()  # Marks it as retrieved: after a disconnect nobody awaits the answer.
        if all(turn.done.done() for turn in turns):
            plan.episode.answering.pop(turns[0].id, None)
            self._requests.pop(turns[0].id, None)


def _characters(message: dict[str, Any]) -> int:
    """Return how many characters every chat template shows of a message: earlier thoughts may be left out."""
    content = message.get("content")
    if message.get("role") == "assistant" or not content:
        return 0
    return (
        len(content.strip())
        if isinstance(content, str)
        else sum(len(str(part.get("text") or "").strip()) for part in content)
    )
