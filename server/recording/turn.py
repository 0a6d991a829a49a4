"""A turn in progress: deltas while the engine samples, then the recorded answer.

A turn is what one request sees. Several requests can share one answer, and an answer recorded earlier can be shown
again; to its reader each of them is a `Turn`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from server.errors import UpturnError
from server.rendering.answers import Delta, ToolCall

RETRY_GRACE_S = 3.0
"""How long a whole answer is sampled on after its last reader has disconnected, in seconds: a client that ran into its
timeout sends the request again. OpenAI's and Anthropic's SDKs wait at most 0.5, 1 and 2 s before their first three
retries."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The recorded answer of a turn, as the API shows it."""

    turn_id: str
    episode_id: str
    message: dict[str, Any]
    """The assistant's message."""
    finish_reason: str
    prompt_tokens: int
    token_ids: list[int]
    """[K] sampled ids."""
    logprobs: list[float]
    """[K] natural logarithm."""
    top_logprobs: list[dict[int, float]] | None
    """[K] alternatives by token id, if the request asked for them."""
    version: int
    """Policy version that sampled the last token."""
    first_version: int
    """Policy version that sampled the first token."""
    untrainable: str | None = None
    """Why the learner must not train on it."""
    prompt_ids: list[int] = field(default_factory=list)
    """[T] ids of the prompt."""

    @property
    def text(self) -> str:
        """The message's content, or an empty string."""
        return self.message["content"] or ""

    def without(self, prefill: str) -> Answer:
        """Return the answer without its beginning, which the caller wrote."""
        return replace(self, message={**self.message, "content": self.text.removeprefix(prefill)}) if prefill else self


@dataclass(slots=True)
class Readers:
    """The requests that wait for one answer. Once they are gone, sampling stops and the partial answer is recorded."""

    count: int = 1
    gone: bool = False
    """No request waits for the answer, and none can join."""
    shown: int = 0
    """Number of deltas that a stream has handed to its connection."""
    stopped: UpturnError | None = None
    """What the readers get instead of the answer, if the server stops before its end."""
    when_gone: Callable[[], None] | None = None
    """Called once, when the readers are gone."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _timer: asyncio.TimerHandle | None = None
    """Ends the time in which another request may join."""

    def join(self) -> None:
        """Add a request."""
        self.count += 1
        self._changed.set()
        if self._timer is not None:
            self._timer.cancel()

    def leave(self, grace_s: float) -> None:
        """Remove a request; if it was the last, another may join within `grace_s` seconds."""
        self.count -= 1
        if self.count > 0:
            return
        if grace_s:
            self._timer = asyncio.get_running_loop().call_later(grace_s, self._end)
        else:
            self._end()

    def stop(self, error: UpturnError) -> None:
        """End the answer here: its readers get `error`."""
        self.count, self.stopped = 0, error
        self._end()

    async def remain(self) -> bool:
        """Return whether a request waits for the answer, after the time in which a retry may join."""
        while self.count <= 0 and not self.gone:
            self._changed.clear()
            await self._changed.wait()
        return not self.gone

    def _end(self) -> None:
        if self.count > 0 or self.gone:
            return
        self.gone = True
        self._changed.set()
        if self.when_gone is not None:
            self.when_gone()


@dataclass(slots=True)
class Beginning:
    """Which policy version begins an answer."""

    version: int
    """The requested version; once the answer has begun, the one that sampled its first token."""
    begun: bool = False
    """The engine has sampled a token."""


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """One request's view of a turn."""

    id: str
    episode_id: str
    beginning: Beginning
    """Shared by every turn that shows the same answer."""
    done: asyncio.Future[Answer]
    """The answer once it is durable, or the error that ended the turn."""
    readers: Readers = field(default_factory=Readers)
    """Shared by every turn that shows the same answer."""
    deltas: asyncio.Queue[Delta | None] = field(default_factory=asyncio.Queue)
    """Parts of the answer in order, then None."""
    reason: str | None = None
    """Why the request alone makes the turn untrainable."""
    prompt_ids: list[int] = field(default_factory=list)
    """[T] ids of the prompt."""

    @property
    def untrainable(self) -> str | None:
        """Why the learner must not train on the turn, as far as it is known now."""
        if self.done.done() and not self.done.cancelled() and self.done.exception() is None:
            return self.done.result().untrainable
        return self.reason

    @property
    def version(self) -> int:
        """Policy version that sampled the first token, or is asked to."""
        return self.beginning.version

    @property
    def abandoned(self) -> bool:
        """Whether every reader has left."""
        return self.readers.gone

    def leave(self, grace_s: float = 0.0) -> None:
        """Stop waiting for the answer: this reader's connection has closed.

        Args:
            grace_s: how long another request may still join before the answer is given up.
        """
        self.readers.leave(grace_s)

    async def pieces(self) -> AsyncIterator[Delta]:
        """Yield the answer as it arrives. Afterwards `answer()` returns or raises without delay."""
        while (delta := await self.deltas.get()) is not None:
            yield delta

    async def answer(self) -> Answer:
        """Wait for the recorded answer; canceling the wait does not cancel the turn."""
        return await asyncio.shield(self.done)

    def follow(self) -> Turn:
        """Add a reader: return a turn that waits for the same answer and shows it in one piece."""
        self.readers.join()
        turn = Turn(
            self.id,
            self.episode_id,
            self.beginning,
            self.done,
            self.readers,
            reason=self.reason,
            prompt_ids=self.prompt_ids,
        )

        def show(done: asyncio.Future[Answer]) -> None:
            if not done.cancelled() and done.exception() is None:
                turn._show(done.result().message)
            turn.deltas.put_nowait(None)

        self.done.add_done_callback(show)
        return turn

    @classmethod
    def recorded(cls, answer: Answer) -> Turn:
        """Return a turn that shows an answer recorded earlier. Needs a running event loop."""
        done: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        done.set_result(answer)
        beginning = Beginning(answer.first_version, begun=True)
        turn = cls(answer.turn_id, answer.episode_id, beginning, done, prompt_ids=answer.prompt_ids)
        turn._show(answer.message)
        turn.deltas.put_nowait(None)
        return turn

    def _show(self, message: dict[str, Any]) -> None:
        """Queue a complete message as deltas."""
        if message.get("reasoning_content") or message["content"]:
            self.deltas.put_nowait(Delta(message["content"] or "", message.get("reasoning_content") or ""))
        for position, call in enumerate(message.get("tool_calls", [])):
            function = call["function"]
            self.deltas.put_nowait(Delta(call=ToolCall(position, call["id"], function["name"], function["arguments"])))
