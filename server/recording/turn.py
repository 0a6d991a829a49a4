"""A turn in progress: deltas while the engine samples, then the recorded answer.

A turn is what one request sees. Several requests can share one answer, and an answer recorded earlier can be shown
again; to its reader each of them is a `Turn`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from server.rendering.answers import Delta, ToolCall


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

    @property
    def text(self) -> str:
        """The message's content, or an empty string."""
        return self.message["content"] or ""


@dataclass(slots=True)
class Readers:
    """Number of requests that wait for one answer. At 0, sampling stops and the partial answer is recorded."""

    count: int = 1

    @property
    def gone(self) -> bool:
        """Whether no request waits for the answer."""
        return self.count <= 0


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

    @property
    def version(self) -> int:
        """Policy version that sampled the first token, or is asked to."""
        return self.beginning.version

    @property
    def abandoned(self) -> bool:
        """Whether every reader has left."""
        return self.readers.gone

    def leave(self) -> None:
        """Stop waiting for the answer: this reader's connection has closed."""
        self.readers.count -= 1

    async def pieces(self) -> AsyncIterator[Delta]:
        """Yield the answer as it arrives. Afterwards `answer()` returns or raises without delay."""
        while (delta := await self.deltas.get()) is not None:
            yield delta

    async def answer(self) -> Answer:
        """Wait for the recorded answer; canceling the wait does not cancel the turn."""
        return await asyncio.shield(self.done)

    def follow(self) -> Turn:
        """Add a reader: return a turn that waits for the same answer and shows it in one piece."""
        self.readers.count += 1
        turn = Turn(self.id, self.episode_id, self.beginning, self.done, self.readers)

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
        turn = cls(answer.turn_id, answer.episode_id, Beginning(answer.first_version, begun=True), done)
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
