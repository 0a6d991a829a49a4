"""Calls of the server's own routes, in process, with the viewer's key.

A call passes the whole application: authentication, limits, the request log. The viewer's address and the host of the
page's request go with it, so wrong keys count where they come from.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, Any, TypeVar
from urllib.parse import urlencode

from fastapi import Depends, Request
from pydantic import BaseModel
from starlette.types import Message

from upturn.logs import request_id
from upturn.wire import CallerView, Scope

M = TypeVar("M", bound=BaseModel)
Params = Mapping[str, str | int | float | bool | Sequence[str] | None]

COOKIE = "upturn_key"


class Refused(Exception):
    """A route answered with an error."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: Mapping[str, str] = {}) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = headers


@dataclass(frozen=True, slots=True)
class Viewer:
    """The person who looks at a page: what pages read and change goes through here."""

    request: Request
    key: str
    """The key of the person; empty without one."""
    who: CallerView = field(default_factory=lambda: CallerView(name="", scopes=[], episode_id=None))

    def may(self, *scopes: Scope) -> bool:
        """Return whether the key has one of these scopes; an admin key has all of them."""
        return not {*scopes, "admin"}.isdisjoint(self.who.scopes)

    async def get(self, path: str, params: Params | None = None) -> Any:
        """Return the JSON of a route.

        Args:
            path: path of the route, not percent-encoded, such as `/v1/runs`.
            params: the query; None leaves a parameter out, a list repeats it.

        Raises:
            Refused: the route answered with an error.
        """
        return json.loads(await self._call("GET", path, params))

    async def read(self, model: type[M], path: str, params: Params | None = None) -> M:
        """Return the answer of a route as a message; like `get`."""
        return model.model_validate_json(await self._call("GET", path, params))

    async def maybe(self, model: type[M], path: str, params: Params | None = None) -> M | None:
        """Return the answer of a route, or None if there is nothing or the viewer may not see it."""
        try:
            return await self.read(model, path, params)
        except Refused as refused:
            if refused.status in (HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND):
                return None
            raise

    async def post(self, path: str, body: Mapping[str, Any] | BaseModel | None = None) -> Any:
        """Call a route that changes something; return its JSON, or None for an empty answer.

        Raises:
            Refused: the route answered with an error.
        """
        received = await self._call("POST", path, body=body)
        return json.loads(received) if received else None

    async def delete(self, path: str) -> None:
        """Call a route that removes something.

        Raises:
            Refused: the route answered with an error.
        """
        await self._call("DELETE", path)

    async def _call(
        self, method: str, path: str, params: Params | None = None, body: Mapping[str, Any] | BaseModel | None = None
    ) -> bytes:
        sent = b""
        if body is not None:
            value = body.model_dump(mode="json", exclude_unset=True) if isinstance(body, BaseModel) else body
            sent = json.dumps(value).encode()
        status, headers, received = await _ask(self.request, method, path, _query(params), sent, self.key)
        if status < HTTPStatus.BAD_REQUEST:
            return received
        raise _refusal(status, headers, received)


def _query(params: Params | None) -> str:
    spelled: list[tuple[str, str]] = []
    for name, value in (params or {}).items():
        if value is None:
            continue
        several = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        spelled += [(name, str(one).lower() if isinstance(one, bool) else str(one)) for one in several]
    return urlencode(spelled)


async def _ask(
    request: Request, method: str, path: str, query: str, body: bytes, key: str
) -> tuple[int, dict[str, str], bytes]:
    """Call a route of the application that answers `request`; return status, headers and body."""
    headers = [(b"host", request.headers.get("host", "localhost").encode("latin-1")), (b"accept", b"application/json")]
    if (own := request_id.get()) is not None:
        headers.append((b"x-request-id", own.encode("latin-1")))
    if key:
        headers.append((b"authorization", f"Bearer {key}".encode("latin-1", "replace")))
    if body:
        headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    scope = {
        "type": "http",
        "asgi": request.scope.get("asgi", {"version": "3.0"}),
        "http_version": "1.1",
        "method": method,
        "scheme": request.scope.get("scheme", "http"),
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": headers,
        "client": request.scope.get("client"),
        "server": request.scope.get("server"),
    }
    status, answered, chunks, sent = 500, dict[str, str](), list[bytes](), False

    async def receive() -> Message:
        nonlocal sent
        if sent:
            await asyncio.Event().wait()  # The caller stays until the answer is complete.
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status, answered
        if message["type"] == "http.response.start":
            status = message["status"]
            answered = {name.decode("latin-1"): value.decode("latin-1") for name, value in message["headers"]}
        elif message["type"] == "http.response.body":
            chunks.append(message.get("body", b""))

    await request.app(scope, receive, send)
    return status, answered, b"".join(chunks)


def _refusal(status: int, headers: Mapping[str, str], body: bytes) -> Refused:
    try:
        error = json.loads(body)["error"]
        return Refused(status, str(error["message"]), error.get("code"), headers)
    except (ValueError, KeyError, TypeError):
        return Refused(status, HTTPStatus(status).phrase, None, headers)


def cookie_name(request: Request) -> str:
    """Return the name of the cookie with the key. It has the port: cookies of one host are shared by all its ports."""
    _, _, port = request.headers.get("host", "").rpartition(":")
    return f"{COOKIE}_{port}" if port.isdigit() else COOKIE


async def identify(request: Request, key: str) -> Viewer:
    """Return the viewer with a key.

    Raises:
        Refused: the server requires a key, and this is none.
    """
    stranger = Viewer(request, key)
    return Viewer(request, key, await stranger.read(CallerView, "/v1/keys/me"))


async def _viewer(request: Request) -> Viewer:
    return await identify(request, request.cookies.get(cookie_name(request), ""))


ViewerOf = Annotated[Viewer, Depends(_viewer)]
"""The viewer of a page. Without a valid key, where one is required, the page leads to the login."""
