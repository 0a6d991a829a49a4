"""Server-sent events, and the deltas of several answers in order of arrival."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from fastapi.responses import StreamingResponse

from server.api.dialects.answering import Conversation
from server.api.dialects.dialect import UNBUFFERED
from server.recording.turn import Turn
from server.rendering.answers import Delta
from server.rendering.json_text import write_json

Pieces = AsyncIterator[tuple[int, Delta]]
"""Deltas of all answers in order of arrival, each with the index of its answer."""


async def merged(conversation: Conversation) -> Pieces:
    """Wait for the first delta, so that an earlier failure is still an HTTP error; return all deltas.

    Raises:
        UpturnError: an answer failed before any had begun.
    """
    if len(conversation.turns) == 1:
        turn = conversation.turns[0]
        first = await conversation.while_connected(turn.deltas.get())
        if first is None:
            await turn.answer()
        return _of_one(turn, first)
    queue: asyncio.Queue[tuple[int, Delta | None]] = asyncio.Queue()
    pumps = [asyncio.create_task(_pump(turn, index, queue)) for index, turn in enumerate(conversation.turns)]
    head = await conversation.while_connected(queue.get())
    if head[1] is None:
        await conversation.turns[head[0]].answer()
    return _pieces(conversation.turns, queue, head, pumps)


def sse(conversation: Conversation, events: AsyncGenerator[str, None]) -> StreamingResponse:
    """Stream events. A disconnected client abandons the turns, which are recorded as far as they were sampled."""

    async def until_disconnect() -> AsyncIterator[str]:
        finished = False
        try:
            async with aclosing(events):
                async for event in events:
                    yield event
            finished = True
        finally:
            if not finished:
                conversation.leave()

    headers = {**conversation.headers, **UNBUFFERED}
    return StreamingResponse(until_disconnect(), media_type="text/event-stream", headers=headers)


def event(body: dict[str, Any], name: str | None = None) -> str:
    """Return a server-sent event."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {write_json(body)}\n\n"


class TextEvent:
    """A server-sent event in which only one text differs from chunk to chunk; the rest is written once.

    Args:
        body: the event's body, in which the text `TextEvent.PLACE` stands where the text will.
    """

    PLACE = "\0text\0"

    def __init__(self, body: dict[str, Any]) -> None:
        # The last one, since a client's name of the model, which comes before, may be any text.
        self._before, _, self._after = event(body).rpartition(write_json(self.PLACE))

    def with_text(self, text: str) -> str:
        """Return the event with a text."""
        return f"{self._before}{write_json(text)}{self._after}"


async def _of_one(turn: Turn, first: Delta | None) -> Pieces:
    if first is not None:
        yield 0, first
        turn.readers.shown += 1  # Whoever asks for the next delta has sent this one.
        async for delta in turn.pieces():
            yield 0, delta
            turn.readers.shown += 1


async def _pieces(
    turns: list[Turn],
    queue: asyncio.Queue[tuple[int, Delta | None]],
    head: tuple[int, Delta | None],
    pumps: list[asyncio.Task[None]],
) -> Pieces:
    left, (index, delta) = len(pumps), head
    while True:
        if delta is None:
            left -= 1
        else:
            yield index, delta
            turns[index].readers.shown += 1
        if not left:
            return
        index, delta = await queue.get()


async def _pump(turn: Turn, index: int, queue: asyncio.Queue[tuple[int, Delta | None]]) -> None:
    async for delta in turn.pieces():
        queue.put_nowait((index, delta))
    queue.put_nowait((index, None))
