"""Sends requests to an Upturn server and retries within a time budget; `client.py` builds on it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx2

from upturn.wire import Message

View = TypeVar("View", bound=Message)

_REFUSED = (429, 503)
_NEVER_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
_MAX_PAUSE_S = 10.0


class UpturnAPIError(Exception):
    """The server refused a request, or could not be reached within the retry budget (then `status` is 0)."""

    def __init__(self, status: int, code: str, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(f"{status} {code}: {message}" if status else f"{code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s


class Transport:
    """A connection to one Upturn server. Methods may be called from several threads.

    Args:
        base_url: the server's address without `/v1`, such as `http://127.0.0.1:8000`.
        key: API key, if the server requires one.
        timeout_s: maximum wait for one answer; must exceed the server's long poll of about 20 s.
        retry_s: retry budget of one call: total wait for a server that is unreachable or overloaded.
        transport: an httpx2 transport, for tests; None is the network.
        sleep: waits between attempts.
    """

    def __init__(
        self,
        base_url: str,
        *,
        key: str | None = None,
        timeout_s: float = 60.0,
        retry_s: float = 60.0,
        transport: httpx2.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        timeout = httpx2.Timeout(timeout_s, connect=min(timeout_s, 10.0))
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._http = httpx2.Client(base_url=base_url, headers=headers, timeout=timeout, transport=transport)
        self._retry_s = retry_s
        self._sleep = sleep

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def hurry(self, seconds: float) -> None:
        """Let every later call wait at most this long for an answer, and as long for a server that is away."""
        self._http.timeout = httpx2.Timeout(seconds)
        self._retry_s = seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _get(self, path: str, answer: type[View], **params: str) -> View:
        return answer.model_validate_json(self._request("GET", path, params=params, repeatable=True).content)

    def _post(self, path: str, body: Message | None, answer: type[View], *, repeatable: bool = False) -> View:
        return answer.model_validate_json(self._request("POST", path, body=body, repeatable=repeatable).content)

    def _request(
        self,
        method: str,
        path: str,
        *,
        repeatable: bool,
        body: Message | dict[str, Any] | None = None,
        params: dict[str, Any] | None = None,
    ) -> httpx2.Response:
        """Send one request until it succeeds, fails permanently, or the retry budget is spent."""
        text = body.model_dump_json() if isinstance(body, Message) else json.dumps(body) if body is not None else None
        headers = {"content-type": "application/json"} if text is not None else None
        waited_s, pause_s = 0.0, 0.25
        while True:
            try:
                response = self._http.request(method, path, content=text, headers=headers, params=params)
            except httpx2.TransportError as error:
                failure = UpturnAPIError(0, "connection_error", f"{method} {path}: {type(error).__name__}: {error}")
                failure.__cause__ = error
                retry = repeatable or isinstance(error, _NEVER_SENT)
            else:
                if response.is_success:
                    return response
                failure = _error_of(response)
                retry = response.status_code in _REFUSED
            wait_s = pause_s if failure.retry_after_s is None else failure.retry_after_s
            if not retry or waited_s + wait_s > self._retry_s:
                raise failure
            self._sleep(wait_s)
            waited_s += max(wait_s, 0.01)
            pause_s = min(pause_s * 2, _MAX_PAUSE_S)


def _error_of(response: httpx2.Response) -> UpturnAPIError:
    """Parse OpenAI's error body; the message of any other answer, such as a proxy's page, is its text."""
    try:
        error = json.loads(response.content)["error"]
        code, message = error.get("code") or error.get("type") or "error", error["message"]
    except (ValueError, KeyError, TypeError, AttributeError):
        code, message = "error", response.text[:500]
    return UpturnAPIError(response.status_code, str(code), str(message), _retry_after(response))


def _retry_after(response: httpx2.Response) -> float | None:
    """Return `Retry-After` in seconds, or None; the date form is ignored."""
    try:
        return max(0.0, float(response.headers["retry-after"]))
    except (KeyError, ValueError):
        return None
