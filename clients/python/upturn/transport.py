"""Performs the procedures of `calls.py` over HTTP: one transport blocks, the other one awaits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx2

from upturn.calls import Asynchronous, Call, Item, Pause, Procedure, Requests, Stream, Synchronous

T = TypeVar("T")
Resume = Callable[[], Any]
"""Continues a procedure with the outcome of its last step, and returns its next step."""


def _options(base_url: str, key: str | None, timeout_s: float) -> dict[str, Any]:
    """Return what both connections are made with."""
    return {
        "base_url": base_url,
        "headers": {"authorization": f"Bearer {key}"} if key else {},
        "timeout": httpx2.Timeout(timeout_s, connect=min(timeout_s, 10.0)),
    }


class Transport(Requests, Synchronous):
    """A connection to one Upturn server. Methods may be called from several threads.

    Args:
        base_url: the server's address without `/v1`, such as `http://127.0.0.1:8000`.
        key: API key, if the server requires one.
        timeout_s: maximum wait for one answer; must exceed the server's long poll of about 20 s.
        retry_s: retry budget of one request: total wait for a server that is unreachable or overloaded.
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
        self.base_url = base_url.rstrip("/")
        self._http = httpx2.Client(**_options(base_url, key, timeout_s), transport=transport)
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

    def _perform(self, steps: Procedure[T]) -> T:
        resume: Resume = steps.__next__
        while True:
            try:
                step = resume()
            except StopIteration as end:
                result: T = end.value
                return result
            resume = self._step(steps, step)

    def _iterate(self, steps: Stream[T]) -> Iterator[T]:
        resume: Resume = steps.__next__
        while True:
            try:
                step = resume()
            except StopIteration:
                return
            if isinstance(step, Item):
                yield step.value
                resume = steps.__next__
            else:
                resume = self._step(steps, step)

    def _step(self, steps: Any, step: Call | Pause) -> Resume:
        if isinstance(step, Pause):
            self._sleep(step.seconds)
            return partial(next, steps)
        try:
            response = self._http.request(
                step.method, step.path, content=step.body, headers=step.headers, params=step.params
            )
        except httpx2.TransportError as error:
            return partial(steps.throw, error)
        return partial(steps.send, response)


class AsyncTransport(Requests, Asynchronous):
    """A connection to one Upturn server for one asyncio event loop.

    Args:
        base_url: the server's address without `/v1`, such as `http://127.0.0.1:8000`.
        key: API key, if the server requires one.
        timeout_s: maximum wait for one answer; must exceed the server's long poll of about 20 s.
        retry_s: retry budget of one request: total wait for a server that is unreachable or overloaded.
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
        transport: httpx2.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._http = httpx2.AsyncClient(**_options(base_url, key, timeout_s), transport=transport)
        self._retry_s = retry_s
        self._sleep = sleep

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    def hurry(self, seconds: float) -> None:
        """Let every later call wait at most this long for an answer, and as long for a server that is away."""
        self._http.timeout = httpx2.Timeout(seconds)
        self._retry_s = seconds

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _perform(self, steps: Procedure[T]) -> T:
        resume: Resume = steps.__next__
        while True:
            try:
                step = resume()
            except StopIteration as end:
                result: T = end.value
                return result
            resume = await self._step(steps, step)

    async def _iterate(self, steps: Stream[T]) -> AsyncIterator[T]:
        resume: Resume = steps.__next__
        while True:
            try:
                step = resume()
            except StopIteration:
                return
            if isinstance(step, Item):
                yield step.value
                resume = steps.__next__
            else:
                resume = await self._step(steps, step)

    async def _step(self, steps: Any, step: Call | Pause) -> Resume:
        if isinstance(step, Pause):
            await self._sleep(step.seconds)
            return partial(next, steps)
        try:
            response = await self._http.request(
                step.method, step.path, content=step.body, headers=step.headers, params=step.params
            )
        except httpx2.TransportError as error:
            return partial(steps.throw, error)
        return partial(steps.send, response)
