"""Refuses request bodies that are too large, have too many values, or do not arrive."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.access.errors import ErrorAnswers
from server.api.access.json_shape import JsonShape
from server.errors import BodyTimeout, TooLarge, UpturnError

SILENCE_S = 60.0
"""Longest pause in a body, in seconds."""
ARRIVAL_S = 600.0
"""Longest time for a whole body, in seconds."""


class BodyLimit:
    """Counts bodies as they arrive, whether or not they announce their length. Plain ASGI: nothing is buffered."""

    def __init__(self, app: ASGIApp, limit_bytes: int, errors: ErrorAnswers) -> None:
        self._app = app
        self._limit = limit_bytes
        self._errors = errors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the body's bytes and values."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"")
        if announced.isdigit() and int(announced) > self._limit:
            await self._refuse(self._too_large(), scope, receive, send)
            return
        shape, loop = JsonShape(), asyncio.get_running_loop()
        received, complete, latest = 0, False, loop.time() + ARRIVAL_S
        error: UpturnError | None = None
        refused = False

        async def counted() -> Message:
            nonlocal received, complete, error
            if error is not None:
                return {"type": "http.disconnect"}
            if complete:
                return await receive()
            try:
                async with asyncio.timeout_at(min(loop.time() + SILENCE_S, latest)):
                    message = await receive()
                body = message.get("body", b"")
                received += len(body)
                complete = not message.get("more_body", False)
                if received > self._limit:
                    raise self._too_large()
                shape.add(body)
                return message
            except TimeoutError:
                error = BodyTimeout("the request body did not arrive in time")
            except UpturnError as wrong:
                error = wrong
            return {"type": "http.disconnect"}

        async def replaced(message: Message) -> None:
            nonlocal refused
            if error is None:
                await send(message)
            elif not refused:  # Replaces the application's answer to the truncated body.
                refused = True
                await self._refuse(error, scope, receive, send)

        try:
            await self._app(scope, counted, replaced)
        except ClientDisconnect:
            if error is not None and not refused:
                await self._refuse(error, scope, receive, send)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the request body is larger than {self._limit} bytes")

    async def _refuse(self, error: UpturnError, scope: Scope, receive: Receive, send: Send) -> None:
        await self._errors.answer(scope["path"], error)(scope, receive, send)
