"""One log line per request, and the id that connects all log lines of a request.

The id is the caller's `x-request-id` if it is a plain token, otherwise a new one; the answer returns it. The line names
the route, not the path, and neither the query nor anything of a body.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.access.errors import ErrorAnswers
from server.errors import UpturnError
from upturn.logs import request_id

log = logging.getLogger("upturn.access")

HEADER = "x-request-id"
_PLAIN = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_EPISODE = re.compile(r"[A-Za-z0-9_-]{1,64}")
QUIET = frozenset({"/health", "/healthz", "/readyz", "/metrics"})
"""Routes that monitors ask every few seconds: their line has the level debug."""


class RequestLog:
    """Names requests, logs them, and answers those that fail unexpectedly. Plain ASGI: a stream's line is its end."""

    def __init__(self, app: ASGIApp, errors: ErrorAnswers) -> None:
        self._app = app
        self._errors = errors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        wanted = headers.get(HEADER, "")
        own = wanted if _PLAIN.fullmatch(wanted) else f"req_{secrets.token_hex(8)}"
        token = request_id.set(own)
        began, status, episode = time.monotonic(), 0, headers.get("x-episode-id", "")

        async def named(message: Message) -> None:
            nonlocal status, episode
            if message["type"] == "http.response.start":
                status = message["status"]
                answer = MutableHeaders(scope=message)
                answer[HEADER] = own
                episode = answer.get("x-episode-id", episode)
            await send(message)

        try:
            await self._app(scope, receive, named)
        except Exception as error:
            log.error("%s %s failed", scope["method"], _route(scope), exc_info=error)
            if not status:
                failed = UpturnError(f"internal error: {type(error).__name__}; request {own} in the server's log")
                await self._errors.answer(scope["path"], failed)(scope, receive, named)
            # Otherwise the answer has begun; returning without its end closes the connection.
        finally:
            self._write(scope, status, time.monotonic() - began, episode)
            request_id.reset(token)

    def _write(self, scope: Scope, status: int, seconds: float, episode: str) -> None:
        route, caller = _route(scope), scope.get("state", {}).get("caller")
        episode = scope.get("path_params", {}).get("episode_id", episode)
        fields: dict[str, Any] = {
            "method": scope["method"],
            "route": route,
            "status": status or None,
            "ms": round(1000 * seconds, 1),
            "key": caller.name if caller is not None else None,
            "episode": episode if _EPISODE.fullmatch(episode) else None,
        }
        rest = "".join(f" {name}={fields[name]}" for name in ("key", "episode") if fields[name])
        log.log(
            logging.DEBUG if route in QUIET else logging.INFO,
            "%s %s %s %.1f ms%s",
            scope["method"],
            route,
            status or "disconnected",
            fields["ms"],
            rest,
            extra={"fields": fields},
        )


def _route(scope: Scope) -> str:
    """Return the template of the request's route, such as `/v1/episodes/{episode_id}`."""
    return getattr(scope.get("route"), "path", None) or "(no route)"
