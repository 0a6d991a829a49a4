"""What an operation of the client is: a procedure that asks for requests and pauses, and never waits by itself.

Both clients share every procedure. `transport.py` performs them: the synchronous one blocks, the asynchronous one
awaits. `operation` and `streamed` make a procedure a method of both, so that neither client repeats the other.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from dataclasses import dataclass
from functools import update_wrapper, wraps
from typing import Any, Concatenate, Generic, ParamSpec, TypeAlias, TypeVar, overload
from urllib.parse import quote

import httpx2

from upturn.wire import Message

P = ParamSpec("P")
T = TypeVar("T")
View = TypeVar("View", bound=Message)

POLL_S = 0.5
"""Pause before asking again for what is not ready."""
_REFUSED = (429, 503)
_NEVER_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
_FIRST_PAUSE_S = 0.25
_MAX_PAUSE_S = 10.0


class UpturnAPIError(Exception):
    """The server refused a request, or could not be reached within the retry budget (then `status` is 0)."""

    def __init__(self, status: int, code: str, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(f"{status} {code}: {message}" if status else f"{code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Call:
    """One attempt of a request. The procedure gets the `httpx2.Response`, or the `httpx2.TransportError` raised."""

    method: str
    path: str
    body: str | None = None
    """JSON."""
    params: dict[str, Any] | None = None

    @property
    def headers(self) -> dict[str, str] | None:
        """Headers in addition to the connection's."""
        return None if self.body is None else {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class Pause:
    """A wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Item(Generic[T]):
    """What a stream gives to its reader."""

    value: T


Procedure: TypeAlias = Generator[Call | Pause, Any, T]
"""Yields what to do, receives responses, and returns the operation's result."""
Stream: TypeAlias = Generator[Call | Pause | Item[T], Any, None]
"""Yields what to do, and items for the reader."""


class Synchronous(ABC):
    """Performs procedures and blocks."""

    @abstractmethod
    def _perform(self, steps: Procedure[T]) -> T: ...

    @abstractmethod
    def _iterate(self, steps: Stream[T]) -> Iterator[T]: ...


class Asynchronous(ABC):
    """Performs procedures and awaits."""

    @abstractmethod
    async def _perform(self, steps: Procedure[T]) -> T: ...

    @abstractmethod
    def _iterate(self, steps: Stream[T]) -> AsyncIterator[T]: ...


class operation(Generic[P, T]):
    """Make a procedure a method that returns its result, or awaits it in an asynchronous client."""

    def __init__(self, describe: Callable[Concatenate[Any, P], Procedure[T]]) -> None:
        self.describe = describe
        """The procedure itself; its first argument is the client."""
        update_wrapper(self, describe)

    @overload
    def __get__(self, client: None, owner: Any) -> operation[P, T]: ...

    @overload
    def __get__(self, client: Synchronous, owner: Any) -> Callable[P, T]: ...

    @overload
    def __get__(self, client: Asynchronous, owner: Any) -> Callable[P, Coroutine[Any, Any, T]]: ...

    def __get__(self, client: Any, owner: Any) -> Any:
        if client is None:
            return self
        described = self.describe.__get__(client)

        @wraps(described)
        def method(*arguments: Any, **named: Any) -> Any:
            return client._perform(described(*arguments, **named))

        return method

    def __call__(self, client: Any, *arguments: P.args, **named: P.kwargs) -> Any:
        """Call the method by its class: `Client.runs(client)`."""
        return self.__get__(client, type(client))(*arguments, **named)


class streamed(Generic[P, T]):
    """Make a stream a method that returns an iterator, or an asynchronous iterator in an asynchronous client."""

    def __init__(self, describe: Callable[Concatenate[Any, P], Stream[T]]) -> None:
        self.describe = describe
        """The stream itself; its first argument is the client."""
        update_wrapper(self, describe)

    @overload
    def __get__(self, client: None, owner: Any) -> streamed[P, T]: ...

    @overload
    def __get__(self, client: Synchronous, owner: Any) -> Callable[P, Iterator[T]]: ...

    @overload
    def __get__(self, client: Asynchronous, owner: Any) -> Callable[P, AsyncIterator[T]]: ...

    def __get__(self, client: Any, owner: Any) -> Any:
        if client is None:
            return self
        described = self.describe.__get__(client)

        @wraps(described)
        def method(*arguments: Any, **named: Any) -> Any:
            return client._iterate(described(*arguments, **named))

        return method

    def __call__(self, client: Any, *arguments: P.args, **named: P.kwargs) -> Any:
        """Call the method by its class: `Client.runs(client)`."""
        return self.__get__(client, type(client))(*arguments, **named)


def part(text: str) -> str:
    """Return text as one part of a path."""
    return quote(text, safe="")


class Requests:
    """The requests that operations are made of, with the one rule for retries.

    A refused request (429, 503), or one that never reached the server, is always sent again. A request whose answer was
    lost is sent again only if it is repeatable: if repeating it changes nothing. Every other error is raised at once.
    """

    base_url: str
    """The server's address, without `/v1`."""
    _retry_s: float
    """Retry budget of one request: total wait for a server that is unreachable or overloaded, in seconds."""

    def _get(self, path: str, answer: type[View], **params: Any) -> Procedure[View]:
        response = yield from self._request("GET", path, params=params, repeatable=True)
        return answer.model_validate_json(response.content)

    def _post(
        self, path: str, body: Message | None, answer: type[View], *, repeatable: bool = False
    ) -> Procedure[View]:
        response = yield from self._request("POST", path, body=body, repeatable=repeatable)
        return answer.model_validate_json(response.content)

    def _do(
        self,
        method: str,
        path: str,
        *,
        repeatable: bool,
        body: Message | dict[str, Any] | None = None,
    ) -> Procedure[None]:
        """Send a request whose answer says nothing."""
        yield from self._request(method, path, body=body, repeatable=repeatable)

    def _request(
        self,
        method: str,
        path: str,
        *,
        repeatable: bool,
        body: Message | dict[str, Any] | None = None,
        params: dict[str, Any] | None = None,
    ) -> Procedure[httpx2.Response]:
        """Send one request until it succeeds, fails permanently, or the retry budget is spent."""
        text = body.model_dump_json() if isinstance(body, Message) else json.dumps(body) if body is not None else None
        call = Call(method, path, text, params)
        waited_s, pause_s = 0.0, _FIRST_PAUSE_S
        while True:
            try:
                response: httpx2.Response = yield call
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
            yield Pause(wait_s)
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
