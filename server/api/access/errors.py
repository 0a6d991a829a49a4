"""Errors as HTTP answers: every exception that a route may raise, in the form that the path's clients expect."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DataError, SQLAlchemyError
from starlette.exceptions import HTTPException

from server.api.access.absent import what_is_absent
from server.errors import BadRequest, NotFound, UpturnError
from server.store.database import BROKEN, unavailable

log = logging.getLogger("upturn.errors")

UNSTORABLE = (DataError, OverflowError)
"""Raised by a value that a request's types allow but no column can hold."""


@dataclass(frozen=True, slots=True)
class ErrorForm:
    """The body of an error."""

    body: Callable[[UpturnError], dict[str, Any]]
    schema: dict[str, Any]
    """JSON schema of the body."""


_TEXT = {"type": ["string", "null"]}
OPENAI = ErrorForm(
    UpturnError.body,
    {
        "type": "object",
        "additionalProperties": False,
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "additionalProperties": False,
                "required": ["message", "type", "param", "code"],
                "properties": {
                    "message": {"type": "string"},
                    "type": {"type": "string"},
                    "param": _TEXT,
                    "code": _TEXT,
                },
            }
        },
    },
)
"""OpenAI's form, the default."""

_UNREADABLE: dict[type, str] = {
    UnicodeDecodeError: "the request body must be JSON in UTF-8",
    ValueError: "the body contains a number with too many digits",
}
"""What FastAPI's `There was an error parsing the body` means, by its cause."""


class ErrorAnswers:
    """Turns errors into answers, in the form that `form_of` returns for a path."""

    def __init__(self, form_of: Callable[[str], ErrorForm]) -> None:
        self.form_of = form_of

    def answer(
        self,
        path: str,
        error: UpturnError,
        status_code: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> JSONResponse:
        """Return the answer to a request for a path; status code and headers come from the error by default."""
        body = self.form_of(path).body(error)
        return JSONResponse(body, status_code or error.status_code, {**error.headers(), **(headers or {})})

    def install(self, app: FastAPI) -> None:
        """Answer every exception that the routes raise."""

        def answer(request: Request, error: UpturnError) -> JSONResponse:
            return self.answer(request.scope["path"], error)

        @app.exception_handler(UpturnError)
        async def ours(request: Request, error: UpturnError) -> JSONResponse:
            return answer(request, error)

        for kind in BROKEN:

            @app.exception_handler(kind)
            async def broken(request: Request, error: SQLAlchemyError) -> JSONResponse:
                return answer(request, unavailable(error))

        @app.exception_handler(UnicodeEncodeError)
        async def not_unicode(request: Request, error: UnicodeEncodeError) -> JSONResponse:
            return answer(request, BadRequest(f"the body contains text that is not Unicode: {error.reason}"))

        for wrong in UNSTORABLE:

            @app.exception_handler(wrong)
            async def unstorable(request: Request, error: Exception) -> JSONResponse:
                log.warning("a request cannot be stored: %s", error)
                return answer(
                    request,
                    BadRequest(
                        "the request contains a value that cannot be stored, such as a number beyond 64 bits or a NUL"
                    ),
                )

        @app.exception_handler(RequestValidationError)
        async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
            first = error.errors()[0]
            if first["type"] == "json_invalid":  # Its place is a position in the text.
                return answer(request, BadRequest("the body is not valid JSON"))
            where = ".".join(str(part) for part in first["loc"] if part != "body")
            reason = first["msg"]
            return answer(request, BadRequest(f"{where}: {reason}" if where else reason, param=where or None))

        @app.exception_handler(HTTPException)
        async def routing(request: Request, error: HTTPException) -> JSONResponse:
            if error.status_code == HTTPStatus.NOT_FOUND:
                if what := what_is_absent(request.url.path):
                    return answer(request, NotFound(f"this server does not have {what}", code="not_supported"))
                return answer(request, NotFound(f"path not found: {request.url.path}"))
            code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
            wrong = BadRequest(_UNREADABLE.get(type(error.__cause__)) or str(error.detail), code=code)
            return self.answer(request.scope["path"], wrong, error.status_code, error.headers)
