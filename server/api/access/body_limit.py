"""Refuses request bodies above a size."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.access.errors import ErrorAnswers
from server.errors import TooLarge


class BodyLimit:
    """Refuses large bodies, whether or not they announce their length. Plain ASGI, so streams are not buffered."""

    def __init__(self, app: ASGIApp, limit_bytes: int, errors: ErrorAnswers) -> None:
        self._app = app
        self._limit = limit_bytes
        self._errors = errors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the body's bytes as they arrive."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"")
        if announced.isdigit() and int(announced) > self._limit:
            await self._refuse(scope, receive, send)
            return
        received, refused = 0, False

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message if received <= self._limit else {"type": "http.disconnect"}

        async def replaced(message: Message) -> None:
            nonlocal refused
            if received <= self._limit:
                await send(message)
            elif not refused:  # Replaces the application's answer to the truncated body.
                refused = True
                await self._refuse(scope, receive, send)

        await self._app(scope, counted, replaced)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = TooLarge(f"the request body is larger than {self._limit} bytes")
        await self._errors.answer(scope["path"], error)(scope, receive, send)
