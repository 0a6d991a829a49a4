"""Authentication: the middleware that every request passes, and the dependencies that declare a route's requirements.

The middleware runs before the body is read. It finds the key's caller and counts the request against the key's limits
until the last byte of the answer has been sent. A server that is stopping refuses new calls here (`draining.py`).
Routes then require a scope (`needs`) or the caller's own episode (`own_episode`). Callers are in `callers.py`, limits
in `limits.py`.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Header, Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as ASGIScope

from server.api.access.callers import Caller, Callers
from server.api.access.draining import READS, Draining
from server.api.access.errors import ErrorAnswers
from server.api.access.limits import Limits
from server.api.access.sites import PAGES
from server.api.services import provider, service
from server.errors import Forbidden, UpturnError
from server.store.database import BROKEN, unavailable
from upturn.wire import Scope

OPEN = frozenset(
    {
        *("/", "/ui", "/health", "/healthz", "/readyz", "/openapi.json", "/redoc"),
        *("/docs", "/docs/start.js", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css", "/docs/favicon-32x32.png"),
    }
)
"""Paths that need no key. Every other path does, including paths that do not exist, except the dashboard's: it calls
the routes with the key of the person who looks, and asks for one."""

CallersOf = Annotated[Callers, service(Callers)]
LimitsOf = Annotated[Limits, service(Limits)]


class Authentication:
    """Authenticates requests and enforces key limits. Plain ASGI: a stream counts until its end."""

    def __init__(self, app: ASGIApp, errors: ErrorAnswers) -> None:
        self._app = app
        self._errors = errors

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Find the caller, count the request, and pass it on."""
        if scope["type"] != "http" or scope["path"] in OPEN or scope["path"].startswith(PAGES):
            await self._app(scope, receive, send)
            return
        callers: Callers = provider(Callers).of(scope["app"])
        limits: Limits = provider(Limits).of(scope["app"])
        draining: Draining = provider(Draining).of(scope["app"])
        try:
            caller = await callers.find(key_of(Headers(scope=scope)), (scope.get("client") or ("",))[0])
            # The server's own learner returns its batch while the server is stopping.
            is_call = scope["method"] not in READS and not callers.is_own(caller)
            if is_call:
                draining.check()
            limits.enter(caller.limit)
        except UpturnError as error:
            await self._errors.answer(scope["path"], error)(scope, receive, send)
            return
        except BROKEN as error:
            await self._errors.answer(scope["path"], unavailable(error))(scope, receive, send)
            return
        draining.calls += is_call
        try:
            scope.setdefault("state", {})["caller"] = caller
            await self._app(scope, receive, send)
        finally:
            draining.calls -= is_call
            limits.leave(caller.limit)


def key_of(headers: Headers) -> str:
    """Return a request's key from OpenAI's header, otherwise from Anthropic's; empty without either."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key if scheme.lower() == "bearer" else headers.get("x-api-key", "")


async def _caller(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller


CallerOf = Annotated[Caller, Depends(_caller)]


def needs(*scopes: Scope) -> Any:
    """Return a dependency that requires a key with one of these scopes; an admin key always passes."""

    async def check(caller: CallerOf) -> None:
        if not caller.may(*scopes):
            raise Forbidden(f"{caller.name!r} lacks the required scope: {' or '.join(scopes)}")

    return Depends(check)


async def _own_episode(request: Request, callers: CallersOf) -> None:
    named = request.path_params.get("episode_id") or request.headers.get("x-episode-id")
    await callers.check_episode(request.state.caller, named)


own_episode: Any = Depends(_own_episode)
"""Requires an agent's or an episode's own key; an episode in the URL or `x-episode-id` must be the caller's."""


async def _may_reward(episode_id: str, caller: CallerOf, callers: CallersOf) -> None:
    await callers.check_rewards(caller, episode_id)


may_reward: Any = Depends(_may_reward)
"""Requires a key that may reward the episode in the URL; as which sources it may is for the route to check."""


async def _no_train(x_no_train: Annotated[str | None, Header()] = None) -> bool:
    return forbids_training(x_no_train)


def forbids_training(x_no_train: str | None) -> bool:
    """Return whether a header `x-no-train` forbids training."""
    return (x_no_train or "").strip().lower() in ("1", "true", "yes")


NoTrain = Annotated[bool, Depends(_no_train)]
"""Whether the caller forbids training on this request (`x-no-train: 1`)."""
