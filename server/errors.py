"""Every error that the server returns, in one tree. Only this file knows status codes.

    UpturnError
    ├── BadRequest 400            the request is invalid; repeating it will not help
    │   ├── ContextTooLong 400
    │   └── HorizonReached 400
    ├── InvalidKey 401            the API key is missing, wrong or revoked
    ├── Forbidden 403             the key's scopes do not allow this
    ├── NotFound 404
    ├── BodyTimeout 408           the request body did not arrive
    ├── Conflict 409
    ├── TooLarge 413
    ├── RateLimited 429           a limit of the key is reached; retry after `retry_after_s`
    │   └── EnvironmentsFull 429  the maximum number of environments is open
    └── Unavailable 503           retry after `retry_after_s`
        ├── EngineError 503       the engine has died, or cannot answer now
        └── EnvironmentFailed 503 an episode's environment failed; so has the episode

To add an error, subclass the nearest one, give it a `code`, and draw it here. Bodies have OpenAI's form, `{"error":
{message, type, param, code}}`, so that every OpenAI SDK can show them. SDKs do not retry 400, 401, 403, 404 and 413;
429 and 503 carry `Retry-After`.
"""

from __future__ import annotations

from typing import Any, ClassVar

MOST_CHARACTERS = 2000
"""Length of a message beyond which it is cut: it may quote what the caller sent."""


class UpturnError(Exception):
    """Base of all errors that become an HTTP response."""

    status_code: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: str = "internal_error"
    safe_to_log: ClassVar[bool] = False
    """Whether messages of this class never quote a conversation; only then do log lines contain them."""

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message if len(message) <= MOST_CHARACTERS else f"{message[:MOST_CHARACTERS]} [cut]"
        self.param = param if param is None else param[:MOST_CHARACTERS]
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
    """The request is invalid."""

    status_code = 400
    type = "invalid_request_error"
    code = "invalid_request"


class ContextTooLong(BadRequest):
    """The prompt does not fit the model's context."""

    code = "context_length_exceeded"

    def __init__(self, message: str, *, tokens: int | None = None, most: int | None = None, **more: Any) -> None:
        """`tokens` is the prompt's length, or less than it; `most` is the context. Anthropic's error needs both."""
        super().__init__(message, **more)
        self.tokens, self.most = tokens, most

    @classmethod
    def of(cls, tokens: int, most: int, *, at_least: bool = False) -> ContextTooLong:
        """Return the error for a prompt of this many tokens, in OpenAI's words, which agents look for."""
        count = f"at least {tokens}" if at_least else str(tokens)
        return cls(
            f"This model's maximum context length is {most} tokens. However, your messages resulted in {count} tokens: "
            "shorten them",
            param="messages",
            tokens=tokens,
            most=most,
        )


class HorizonReached(BadRequest):
    """The episode has used all its turns."""

    code = "horizon_reached"


class InvalidKey(UpturnError):
    """The API key is missing, wrong or revoked."""

    status_code = 401
    type = "invalid_request_error"
    code = "invalid_api_key"

    def headers(self) -> dict[str, str]:
        """Return the extra response headers, including how to authenticate."""
        return {**super().headers(), "www-authenticate": "Bearer"}


class Forbidden(UpturnError):
    """The key's scopes do not allow this."""

    status_code = 403
    type = "invalid_request_error"
    code = "insufficient_scope"


class NotFound(UpturnError):
    """There is no such model, episode, environment, task, run or other object."""

    status_code = 404
    type = "invalid_request_error"
    code = "not_found"


class BodyTimeout(UpturnError):
    """The request body did not arrive."""

    status_code = 408
    type = "invalid_request_error"
    code = "request_timeout"


class Conflict(UpturnError):
    """The object's state forbids it: a closed episode, another learner's lease, a reused idempotency key."""

    status_code = 409
    type = "invalid_request_error"
    code = "conflict"


class TooLarge(UpturnError):
    """The request body exceeds the server's limit."""

    status_code = 413
    type = "invalid_request_error"
    code = "request_too_large"


class RateLimited(UpturnError):
    """A limit of the key is reached."""

    status_code = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class EnvironmentsFull(RateLimited):
    """The maximum number of environments is open."""

    code = "environments_full"


class Unavailable(UpturnError):
    """The server cannot serve this request now."""

    status_code = 503
    type = "server_error"
    code = "unavailable"
    safe_to_log = True

    def __init__(self, message: str, *, retry_after_s: int = 5, **more: Any) -> None:
        super().__init__(message, retry_after_s=retry_after_s, **more)


class EngineError(Unavailable):
    """The engine has died, or cannot answer now."""

    code = "engine_unavailable"
    safe_to_log = False


class EnvironmentFailed(Unavailable):
    """The environment of an episode failed."""

    code = "environment_failed"
    safe_to_log = False
