"""Every error the server answers with, in one tree; the only file that knows status codes.

    UpturnError
    ├── BadRequest 400            the request is wrong; sending it again will not help
    │   ├── ContextTooLong 400
    │   └── HorizonReached 400
    ├── InvalidKey 401            no API key, a wrong one, or a revoked one
    ├── Forbidden 403             the key may not do this
    ├── NotFound 404
    ├── Conflict 409
    ├── TooLarge 413
    ├── RateLimited 429           the key's own limit; come back after `retry_after_s`
    │   └── EnvironmentsFull 429  as many environments are open as may be
    └── Unavailable 503           come back after `retry_after_s`
        ├── EngineError 503       the engine died, or cannot answer now
        └── EnvironmentFailed 503 an episode's environment broke; the episode is marked failed

To add one: subclass the nearest, give it a `code`, draw it here. Bodies are OpenAI's: `{"error": {message, type, param,
code}}`, so every OpenAI SDK shows them; 400, 401, 403, 404 and 413 are not retried by SDKs, 429 and 503 carry
`Retry-After`.
"""

from __future__ import annotations

from typing import Any, ClassVar


class UpturnError(Exception):
    """Base of all errors that become an HTTP answer."""

    status_code: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: str = "internal_error"

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        if code is not None:
            self.code = code

    def body(self) -> dict[str, Any]:
        """Return OpenAI's error body."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """Return the extra response headers."""
        return {} if self.retry_after_s is None else {"retry-after": str(self.retry_after_s)}


class BadRequest(UpturnError):
    """The request is wrong."""

    status_code = 400
    type = "invalid_request_error"
    code = "invalid_request"


class ContextTooLong(BadRequest):
    """The prompt does not fit the model's context."""

    code = "context_length_exceeded"


class HorizonReached(BadRequest):
    """The episode has used all its turns."""

    code = "horizon_reached"


class InvalidKey(UpturnError):
    """The request has no API key, a wrong one, or a revoked one."""

    status_code = 401
    type = "invalid_request_error"
    code = "invalid_api_key"

    def headers(self) -> dict[str, str]:
        """Return the extra response headers: how to say who calls."""
        return {**super().headers(), "www-authenticate": "Bearer"}


class Forbidden(UpturnError):
    """The key's scopes do not cover this."""

    status_code = 403
    type = "invalid_request_error"
    code = "insufficient_scope"


class NotFound(UpturnError):
    """No such model, episode, environment, task, run."""

    status_code = 404
    type = "invalid_request_error"
    code = "not_found"


class Conflict(UpturnError):
    """The state of the thing forbids it: a closed episode, another's lease, a different repeat."""

    status_code = 409
    type = "invalid_request_error"
    code = "conflict"


class TooLarge(UpturnError):
    """The request body is larger than the server takes."""

    status_code = 413
    type = "invalid_request_error"
    code = "request_too_large"


class RateLimited(UpturnError):
    """The key has used what it may use now."""

    status_code = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class EnvironmentsFull(RateLimited):
    """As many environments are open as may be."""

    code = "environments_full"


class Unavailable(UpturnError):
    """The server cannot do it now."""

    status_code = 503
    type = "server_error"
    code = "unavailable"

    def __init__(self, message: str, *, retry_after_s: int = 5, **more: Any) -> None:
        super().__init__(message, retry_after_s=retry_after_s, **more)


class EngineError(Unavailable):
    """The engine died, or cannot answer now."""

    code = "engine_unavailable"


class EnvironmentFailed(Unavailable):
    """The environment of an episode broke."""

    code = "environment_failed"
