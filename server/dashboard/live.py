"""Parts of a page that change while it is open, as server-sent events: each is sent when its text has changed.

`htmx-ext-sse` puts the event NAME into the element with `sse-swap="NAME"`. A stream ends when the server stops, when
the viewer has gone, or after a while, in which case the browser opens the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from fastapi import Request
from fastapi.responses import StreamingResponse

from server.api.access.draining import Draining
from server.dashboard.frame import HEADERS
from server.dashboard.inside import Refused

EVERY_S = 2.0
"""Seconds between two looks; default chosen by this project."""
MOST_LOAD = 0.05
"""Share of the time that looking may take: a busy server is asked less often."""
POLL_S = 0.25
"""How soon a stream ends once the server stops."""
LONGEST_S = 600.0
"""Length of a stream, after which the browser connects again."""


def stream(
    request: Request, parts: Callable[[], Awaitable[Mapping[str, str]]], draining: Draining, every_s: float = EVERY_S
) -> StreamingResponse:
    """Return a stream of the parts that have changed.

    Args:
        request: the request for the stream.
        parts: renders the parts, by name.
        draining: says when the server stops.
        every_s: seconds between two renderings.
    """

    async def events() -> AsyncIterator[str]:
        sent: dict[str, str] = {}
        loop = asyncio.get_running_loop()
        end = loop.time() + LONGEST_S
        while loop.time() < end:
            began = loop.time()
            try:
                now = await parts()
            except Refused:  # The server is busy or the key was revoked: the browser asks again.
                return
            changed = {name: text for name, text in now.items() if sent.get(name) != text}
            for name, text in changed.items():
                yield event(name, text)
            if not changed:
                yield ": nothing new\n\n"  # A connection that has gone is noticed by writing to it.
            sent.update(changed)
            next_at = loop.time() + max(every_s, (loop.time() - began) / MOST_LOAD)
            while loop.time() < next_at:
                if draining.begun or await request.is_disconnected():
                    return
                await asyncio.sleep(POLL_S)

    return StreamingResponse(events(), media_type="text/event-stream", headers={**HEADERS, "x-accel-buffering": "no"})


def event(name: str, text: str) -> str:
    """Return a server-sent event."""
    lines = text.replace("\r", "").split("\n")
    return f"event: {name}\n" + "".join(f"data: {line}\n" for line in lines) + "\n"
