"""The browser's whole web: a proxy on loopback that answers for the environments' hosts and refuses all others.

The browser sends every request here, including requests to loopback, so a page can only reach hosts that were added.
It speaks HTTP/1.1 with Content-Length, which is all that a proxy's client and these pages need. It is responsible for
bytes and hosts; handlers produce the responses. Each episode gets its own host name, so that origins separate cookies
and storage.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

log = logging.getLogger("env_adapters.browser.browser")
HEAD_BYTES = 32 * 1024
BODY_BYTES = 64 * 1024
"""Maximum size of a request's body: forms are small."""


@dataclass(frozen=True, slots=True)
class Request:
    """A page's request."""

    method: str
    path: str
    query: dict[str, str]
    form: dict[str, str]


@dataclass(frozen=True, slots=True)
class Response:
    """A response."""

    body: bytes
    kind: str = "text/html; charset=utf-8"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Response]
REFUSED = Response(b"There is no such host.", "text/plain", 403)


def redirect(path: str) -> Response:
    """Redirect to another page of the same host, as after a form."""
    return Response(b"", status=303, headers={"Location": path})


class Web:
    """The proxy and its hosts. Used in one event loop."""

    def __init__(self) -> None:
        self._hosts: dict[str, Handler] = {}
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        """Listen on loopback and return the port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=HEAD_BYTES)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        """Stop listening and drop the connections."""
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def add(self, host: str, handler: Handler) -> None:
        """Start answering for a host."""
        self._hosts[host] = handler

    def remove(self, host: str) -> None:
        """Stop answering for a host."""
        self._hosts.pop(host, None)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            # ConnectionError: the browser is gone. ValueError, IncompleteReadError: malformed or unsupported HTTP.
            with suppress(ConnectionError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                while await self._answer(reader, writer):
                    pass
        except asyncio.CancelledError:
            pass  # The proxy is stopping, and nothing awaits this task.
        finally:
            writer.close()
            self._connections.discard(task)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether the connection stays open."""
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        if not 0 <= length <= BODY_BYTES:
            raise ValueError(f"a body of {length} bytes")
        body = await reader.readexactly(length)
        url = urlsplit(target)
        handler = self._hosts.get(url.hostname or "") if url.scheme == "http" else None
        if handler is None:
            log.debug("refused: %s %s", method, target)
            response = REFUSED
        else:
            response = _handled(
                handler,
                Request(method, unquote(url.path), _fields(url.query), _fields(body.decode("utf-8", "replace"))),
            )
        header = "".join(
            [
                f"HTTP/1.1 {response.status} -\r\nContent-Type: {response.kind}\r\n",
                f"Content-Length: {len(response.body)}\r\n",
                *(f"{name}: {value}\r\n" for name, value in response.headers.items()),
                "\r\n",
            ]
        )
        writer.write(header.encode("latin-1") + response.body)
        await writer.drain()
        return handler is not None


def _fields(text: str) -> dict[str, str]:
    return dict(parse_qsl(text, keep_blank_values=True))


def _handled(handler: Handler, request: Request) -> Response:
    """Return a handler's response; an exception in it is logged and becomes an error page."""
    try:
        return handler(request)
    except Exception:
        log.exception("page failed: %s %s", request.method, request.path)
        return Response(b"This page failed.", status=500)
