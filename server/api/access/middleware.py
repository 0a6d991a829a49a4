"""The one place where errors become answers, and where bodies that are too large are refused."""

from __future__ import annotations

import logging
import re
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DataError, SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.dialects.anthropic_errors import PATHS, ErrorAnswer
from server.errors import BadRequest, NotFound, TooLarge, UpturnError
from server.store.database import BROKEN, unavailable

log = logging.getLogger("upturn.errors")

UNSTORABLE = (DataError, OverflowError)
"""What a value raises that the types of a request allow and no column can hold."""

_TEXT = {"type": ["string", "null"]}
_ERROR = {
    "type": "object",
    "additionalProperties": False,
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "additionalProperties": False,
            "required": ["message", "type", "param", "code"],
            "properties": {"message": {"type": "string"}, "type": {"type": "string"}, "param": _TEXT, "code": _TEXT},
        }
    },
}
_ANTHROPIC_ERROR = {
    "type": "object",
    "additionalProperties": False,
    "required": ["type", "error"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "additionalProperties": False,
            "required": ["type", "message"],
            "properties": {"type": {"type": "string"}, "message": {"type": "string"}, "code": _TEXT},
        },
    },
}


class BodyLimit:
    """Refuses request bodies above a size, whether or not they announce it. Plain ASGI, so streams are not buffered."""

    def __init__(self, app: ASGIApp, limit_bytes: int) -> None:
        self._app = app
        self._limit = limit_bytes
        self._refusal = answer(TooLarge(f"the request body is larger than {limit_bytes} bytes"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the body's bytes as they come."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"")
        if announced.isdigit() and int(announced) > self._limit:
            await self._refusal(scope, receive, send)
            return
        seen, refused = 0, False

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            return message if seen <= self._limit else {"type": "http.disconnect"}

        async def replaced(message: Message) -> None:
            nonlocal refused
            if seen <= self._limit:
                await send(message)
            elif not refused:  # Whatever the application says of a body that broke off, this is why.
                refused = True
                await self._refusal(scope, receive, send)

        await self._app(scope, counted, replaced)


def answer(error: UpturnError) -> JSONResponse:
    """Return an error as HTTP."""
    return ErrorAnswer(error)


def install(app: FastAPI, max_body_bytes: int) -> None:
    """Give every error OpenAI's body, and say so in the schema."""
    _document(app)
    app.add_middleware(BodyLimit, limit_bytes=max_body_bytes)

    @app.exception_handler(UpturnError)
    async def ours(_: Request, error: UpturnError) -> JSONResponse:
        return answer(error)

    for kind in BROKEN:

        @app.exception_handler(kind)
        async def broken(_: Request, error: SQLAlchemyError) -> JSONResponse:
            return answer(unavailable(error))

    @app.exception_handler(UnicodeEncodeError)
    async def no_text(_: Request, error: UnicodeEncodeError) -> JSONResponse:
        return answer(BadRequest(f"the body has text that is not Unicode: {error.reason}"))

    for wrong in UNSTORABLE:

        @app.exception_handler(wrong)
        async def unstorable(request: Request, error: Exception) -> JSONResponse:
            log.warning("%s %s: %s", request.method, request.url.path, getattr(error, "orig", error))
            return answer(
                BadRequest(
                    "the request holds a value that cannot be recorded, such as a number beyond 64 bits or a NUL"
                )
            )

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        said = "the body is not valid JSON" if first["type"] == "json_invalid" else first["msg"]
        return answer(BadRequest(f"{where}: {said}" if where else said, param=where or None))

    @app.exception_handler(HTTPException)
    async def routing(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == HTTPStatus.NOT_FOUND:
            return answer(NotFound(f"no such path: {request.url.path}"))
        said = BadRequest(str(error.detail), code=HTTPStatus(error.status_code).phrase.lower().replace(" ", "_"))
        return ErrorAnswer(said, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return answer(UpturnError(f"internal error: {type(error).__name__}"))


def _document(app: FastAPI) -> None:
    """Correct FastAPI's schema: no 422, but these errors; and the parts of a path that only a dependency reads."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        schema = made()
        for name in ("HTTPValidationError", "ValidationError"):
            schema["components"]["schemas"].pop(name, None)
        for path, operations in schema["paths"].items():
            error = _ANTHROPIC_ERROR if path.endswith(PATHS) else _ERROR
            for operation in operations.values():
                operation["responses"].pop("422", None)
                operation["responses"].setdefault(
                    "default", {"description": "An error", "content": {"application/json": {"schema": error}}}
                )
                known = operation.setdefault("parameters", [])
                known += [
                    {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                    for name in re.findall(r"{(\w+)", path)
                    if name not in {one["name"] for one in known}
                ]
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
