"""Samples one answer, reads it while it grows, and records it (steps 3 and 4 of the straight line)."""

from __future__ import annotations

import asyncio
import logging
import time
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from server.engines.protocol import Engine, Piece, SamplingParams, spans_of
from server.errors import EngineError, UpturnError
from server.recording.episode import Episode
from server.recording.episodes import Episodes
from server.recording.matching.returned import call_id
from server.recording.matching.talk import End
from server.recording.prompts import Rendered
from server.recording.recorder import NewTurn, Recorder, Span
from server.recording.trainable import NO_TRAIN, untrainable_reason
from server.recording.turn import Answer, Beginning, Readers
from server.recording.turn_request import TurnRequest
from server.rendering.answers import AnswerReader, Delta, message_of
from server.rendering.tokenizer import Tokenizer
from upturn.logs import request_id

log = logging.getLogger("upturn.turns")


@dataclass(frozen=True, slots=True)
class Plan:
    """One answer to sample and record."""

    turn_id: str
    index: int
    """Position among the episode's answers."""
    choice: int
    """Position among the request's answers; only the first one counts against the horizon."""
    version: int
    """Policy version that is asked to sample."""
    beginning: Beginning
    episode: Episode
    request: TurnRequest
    rendered: Rendered
    params: SamplingParams
    readers: Readers = field(default_factory=Readers)
    deltas: asyncio.Queue[Delta | None] = field(default_factory=asyncio.Queue)


@dataclass(slots=True)
class _Sampled:
    """An answer so far."""

    pieces: list[Piece] = field(default_factory=list)
    deltas: list[Delta] = field(default_factory=list)
    """What its readers are shown of it."""
    ends: list[int] = field(default_factory=list)
    """Number of deltas after each piece."""

    def cut(self, shown: int) -> None:
        """Drop what no reader was shown: all pieces after the one that completes the first `shown` deltas."""
        kept = bisect_left(self.ends, shown) + 1 if shown else 0
        del self.pieces[kept:], self.ends[kept:]
        del self.deltas[self.ends[-1] if self.ends else 0 :]


class Sampler:
    """Carries out plans."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer, recorder: Recorder, episodes: Episodes) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._recorder = recorder
        self._episodes = episodes

    async def sample(self, plan: Plan) -> Answer:
        """Sample an answer, record it, and return it. A stream that its readers left is recorded as far as they got.

        Raises:
            EngineError: the engine failed; the episode has ended with status `error`.
            Unavailable: the server stopped; what was sampled is recorded.
            Exception: nothing was recorded, and the turn does not count against the horizon.
        """
        began = time.perf_counter()
        episode, request, prompt, readers = plan.episode, plan.request, plan.rendered.prompt, plan.readers
        reader, sampled = _reader(self._tokenizer, plan), _Sampled()
        try:
            await self._collect(plan, reader, sampled)
            if abandoned := not await readers.remain():
                if not request.whole and readers.stopped is None:
                    sampled.cut(readers.shown)
            else:
                _show(reader.finish(), plan, sampled)
            message, pieces = message_of(sampled.deltas), sampled.pieces
            whole = {**message, "content": request.prefill + (message["content"] or "")} if request.prefill else message
            finish_reason = next((p.finish_reason for p in reversed(pieces) if p.finish_reason), "abort")
            spans = _spans(pieces)
            reason = untrainable_reason(
                plan.params,
                spans,
                finish_reason=finish_reason,
                abandoned=abandoned,
                ambiguous=request.talk is not None and request.talk.ambiguous,
            )
            await self._recorder.record(
                episode,
                NewTurn(
                    id=plan.turn_id,
                    index=plan.index,
                    digest=request.digest,
                    prompt=prompt,
                    spans=spans,
                    answer=whole,
                    finish_reason=finish_reason,
                    temperature=plan.params.temperature,
                    choice=plan.choice,
                    idempotency_key=request.idempotency_key,
                    duration_ms=1000 * (time.perf_counter() - began),
                    end=_end(plan, whole),
                    untrainable_reason=reason,
                ),
            )
        except EngineError as error:
            _uncount(plan)
            await self._episodes.end(episode, "error", error_class=type(error).__name__, reason=error.message)
            raise
        except BaseException as error:
            _uncount(plan)
            if isinstance(error, (UpturnError, SQLAlchemyError, OverflowError)) or not isinstance(error, Exception):
                raise
            log.exception("turn %s failed", plan.turn_id)
            raise UpturnError(
                f"the server failed while answering; its log says why (request {request_id.get()})"
            ) from error
        finally:
            plan.deltas.put_nowait(None)
        if abandoned and readers.stopped is not None:
            raise readers.stopped
        if episode.environment is None and request.talk is not None:
            self._episodes.matcher.recorded(request.talk, plan.turn_id, episode.id, whole)
        versions = [version for version, _, _ in spans_of(pieces)]
        return Answer(
            turn_id=plan.turn_id,
            episode_id=episode.id,
            message=message,
            finish_reason=finish_reason,
            prompt_tokens=len(prompt.ids),
            token_ids=[t for p in pieces for t in p.token_ids],
            logprobs=[x for p in pieces for x in p.logprobs],
            top_logprobs=[x for p in pieces for x in p.top_logprobs or []] if plan.params.top_logprobs else None,
            version=versions[-1] if versions else plan.version,
            first_version=versions[0] if versions else plan.version,
            untrainable=reason or (None if episode.trainable else NO_TRAIN),
            prompt_ids=prompt.ids,
        )

    async def _collect(self, plan: Plan, reader: AnswerReader, sampled: _Sampled) -> None:
        """Sample until the answer ends or its readers are gone, and show it to them as it grows."""
        prompt, request, readers = plan.rendered.prompt, plan.request, plan.readers
        try:
            # aclosing: an abandoned answer frees the engine at once, not when the iterator is collected.
            async with (
                asyncio.timeout(0 if readers.gone else None) as until_gone,
                aclosing(self._engine.generate(plan.version, prompt.ids, plan.params, whole=request.whole)) as answer,
            ):
                readers.when_gone = lambda: until_gone.reschedule(0)
                async for piece in answer:
                    if piece.token_ids and not plan.beginning.begun:
                        plan.beginning.version, plan.beginning.begun = piece.version, True
                    if not request.whole:  # A whole answer names its episode only after its turn is durable.
                        await plan.episode.opened()
                    sampled.pieces.append(piece)
                    deltas = reader.push(_read_ids(piece, request))
                    _show(
                        _with_tokens(deltas, piece) if request.logprobs and not request.whole else deltas, plan, sampled
                    )
                    sampled.ends.append(len(sampled.deltas))
        except TimeoutError:
            if not readers.gone:
                raise
        finally:
            readers.when_gone = None


def _reader(tokenizer: Tokenizer, plan: Plan) -> AnswerReader:
    return AnswerReader(tokenizer, plan.rendered.format, partial(call_id, plan.turn_id))


def _end(plan: Plan, answer: dict[str, Any]) -> End | None:
    """Return the end of a live conversation."""
    talk, prompt = plan.request.talk, plan.rendered.prompt
    if talk is None or plan.episode.environment is not None:
        return None
    extends = None if prompt.parent is None else prompt.parent.turn_id
    return talk.end(prompt.chain_hash, answer, extends)


def _uncount(plan: Plan) -> None:
    """Return the turn to the horizon: nothing was recorded."""
    plan.episode.turns -= plan.choice == 0


def _show(deltas: Sequence[Delta], plan: Plan, sampled: _Sampled) -> None:
    sampled.deltas += deltas
    for delta in deltas:
        plan.deltas.put_nowait(delta)


def _with_tokens(deltas: Sequence[Delta], piece: Piece) -> list[Delta]:
    """Return the deltas of a piece, of which the first carries its tokens."""
    first, *rest = deltas or [Delta()]
    tops = tuple(piece.top_logprobs or ())
    sampled = replace(first, token_ids=tuple(piece.token_ids), logprobs=tuple(piece.logprobs), top_logprobs=tops)
    return [sampled, *rest]


def _read_ids(piece: Piece, request: TurnRequest) -> list[int]:
    """Return the tokens that are read: a stop token of the request ends the answer and is no part of its text."""
    stops = piece.finish_reason == "stop" and piece.token_ids and piece.token_ids[-1] in request.sampling.stop_ids
    return piece.token_ids[:-1] if stops else piece.token_ids


def _spans(pieces: list[Piece]) -> list[Span]:
    """Return an answer's tokens and logprobs by policy version."""
    ids = [token for piece in pieces for token in piece.token_ids]
    logprobs = [value for piece in pieces for value in piece.logprobs]
    return [Span(version, ids[first:end], logprobs[first:end]) for version, first, end in spans_of(pieces)]
