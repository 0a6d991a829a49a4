"""Errors as answers: in OpenAI's form, or in Anthropic's on the paths on which Anthropic's clients call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from server.errors import Forbidden, InvalidKey, NotFound, RateLimited, TooLarge, Unavailable, UpturnError

PATHS = ("/v1/messages", "/v1/messages/count_tokens")
_TYPES: dict[type[UpturnError], str] = {
    InvalidKey: "authentication_error",
    Forbidden: "permission_error",
    NotFound: "not_found_error",
    TooLarge: "request_too_large",
    RateLimited: "rate_limit_error",
    Unavailable: "overloaded_error",
}


class ErrorAnswer(JSONResponse):
    """An error as HTTP; the path on which it is sent decides the form."""

    def __init__(
        self, error: UpturnError, status_code: int | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        self._more = {**error.headers(), **(headers or {})}
        super().__init__(error.body(), status_code or error.status_code, self._more)
        self._error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        if scope["path"].endswith(PATHS):
            await JSONResponse(anthropic_error(self._error), self.status_code, self._more)(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def anthropic_error(error: UpturnError) -> dict[str, Any]:
    """Return Anthropic's error body, and in it what this server calls the error."""
    otherwise = "invalid_request_error" if error.type == "invalid_request_error" else "api_error"
    kind = next((name for known, name in _TYPES.items() if isinstance(error, known)), otherwise)
    return {"type": "error", "error": {"type": kind, "message": error.message, "code": error.code}}
