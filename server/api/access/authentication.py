"""Who may do what: the gate that every request passes, and the dependencies by which a route says what it needs.

The gate comes before the body is read: it finds the caller of the key and counts the request against the key's limits
until the last byte of its answer has left. Routes then ask for a scope (`needs`), or for the caller's own episode
(`own_episode`). What a key stands for is `callers.py`, how much it may use `limits.py`.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Header, Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as ASGIScope

from server.api.access.callers import Caller
from server.api.access.middleware import answer
from server.api.state import Parts, State
from server.errors import Forbidden, UpturnError
from server.store.database import BROKEN, unavailable
from upturn.wire import Scope

OPEN = frozenset({"/healthz", "/readyz", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"})
"""Paths that need no key; every other path does, also one that does not exist."""


class Gate:
    """Lets in whom a key names, as long as its limits allow. Plain ASGI: a stream counts until its end."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Find the caller, count the request, and pass it on."""
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        parts: State = scope["app"].state.parts
        try:
            caller = await parts.callers.find(key_of(Headers(scope=scope)))
            parts.limits.enter(caller.limit)
        except UpturnError as error:
            await answer(error)(scope, receive, send)
            return
        except BROKEN as error:
            await answer(unavailable(error))(scope, receive, send)
            return
        try:
            scope.setdefault("state", {})["caller"] = caller
            await self._app(scope, receive, send)
        finally:
            parts.limits.leave(caller.limit)


def key_of(headers: Headers) -> str:
    """Return the key of a request: OpenAI's header, else Anthropic's; empty where there is none."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key if scheme.lower() == "bearer" else headers.get("x-api-key", "")


async def _caller(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller


CallerOf = Annotated[Caller, Depends(_caller)]


def needs(*scopes: Scope) -> Any:
    """Return a dependency that lets in callers with one of these scopes, and admins."""

    async def check(caller: CallerOf) -> None:
        if not caller.may(*scopes):
            raise Forbidden(f"{caller.name!r} may not do this: it needs a key with the scope {' or '.join(scopes)}")

    return Depends(check)


async def _own_episode(request: Request, caller: CallerOf, parts: Parts) -> None:
    named = request.path_params.get("episode_id") or request.headers.get("x-episode-id")
    await parts.callers.check_episode(caller, named)


own_episode: Any = Depends(_own_episode)
"""Lets in an agent or an episode's own key, where the URL or `x-episode-id` names no episode or one of the caller's."""


async def _no_train(x_no_train: Annotated[str | None, Header()] = None) -> bool:
    return (x_no_train or "").strip().lower() in ("1", "true", "yes")


NoTrain = Annotated[bool, Depends(_no_train)]
"""Whether the caller forbids training on what it sends (`x-no-train: 1`)."""
