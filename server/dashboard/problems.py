"""Errors as pages: what went wrong, and what to do. Without a valid key, the way to the login."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from server.dashboard.frame import HEADERS, anyones_page, see_other
from server.dashboard.inside import Refused
from server.dashboard.paths import own_place, way_back
from server.errors import UpturnError

log = logging.getLogger("upturn.dashboard")

TITLES = {
    400: "This cannot be done",
    403: "Not allowed",
    404: "Not found",
    409: "This cannot be done now",
    413: "Too large",
    429: "Too many requests",
    503: "The server cannot answer now",
}
ADVICE = {
    403: "Log in with a key that has the needed scope: `admin` shows and does everything.",
    404: "It may have been erased, or it belongs to another key.",
    429: "Wait a moment, and load the page again.",
    503: "Wait a moment, and load the page again.",
}


class PageRoute(APIRoute):
    """A route whose errors are pages."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the function that answers a request."""
        general = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await general(request)
            except Refused as refused:
                if refused.status == HTTPStatus.UNAUTHORIZED:
                    return to_login(request)
                return problem(request, refused.status, refused.message, refused.headers)
            except UpturnError as error:
                return problem(request, error.status_code, error.message, error.headers())
            except RequestValidationError as error:
                first = error.errors()[0]
                return problem(request, 400, f"{'.'.join(str(part) for part in first['loc'][1:])}: {first['msg']}")
            except ClientDisconnect:
                raise
            except Exception as error:
                log.error("%s %s failed", request.method, self.path, exc_info=error)
                return problem(request, 500, f"internal error: {type(error).__name__}; the server's log says more")

        return answer


def pages_router() -> APIRouter:
    """Return a router for pages below `/ui`."""
    return APIRouter(prefix="/ui", include_in_schema=False, route_class=PageRoute)


def problem(request: Request, status: int, message: str, headers: Mapping[str, str] = {}) -> HTMLResponse:
    """Return the page of an error."""
    page = anyones_page(
        request,
        "problem.html",
        title=TITLES.get(status, "Something went wrong"),
        status=status,
        message=message,
        advice=ADVICE.get(status, ""),
    )
    if "retry-after" in headers:
        page.headers["retry-after"] = headers["retry-after"]
    return page


def to_login(request: Request) -> Response:
    """Lead to the login, and from there back to this page."""
    if request.headers.get("sec-fetch-site") == "cross-site" and request.method == "GET":
        # A link on another site: the browser held the cookie back, and sends it when the page loads itself again.
        return HTMLResponse('<!doctype html><meta http-equiv="refresh" content="0"><title>Upturn</title>', 200, HEADERS)
    place = f"login?next={quote(own_place(request), safe='')}" if request.method == "GET" else "login"
    if "hx-request" in request.headers:
        return Response(status_code=401, headers={**HEADERS, "hx-redirect": f"{way_back(request)}{place}"})
    return see_other(request, place)
