"""What a dialect registers: its routes and the form of its errors."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import APIRouter
from starlette.routing import compile_path

from server.api.access.errors import OPENAI, ErrorForm
from server.api.access.json_route import JsonRoute
from server.api.dialects.call import HEADERS

MAY_STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}
"""OpenAPI responses of a route that may stream."""
UNBUFFERED = {"x-accel-buffering": "no", "cache-control": "no-cache"}
"""Headers that keep proxies (nginx and those built on it) from holding a stream back until its end."""
UNDER_EPISODE = "/episodes/{episode_id}"
Route = TypeVar("Route", bound=Callable[..., Any])


class Dialect:
    """An API that agents call. Every path exists under `/episodes/{episode_id}` too."""

    def __init__(self, name: str, errors: ErrorForm = OPENAI) -> None:
        self.name = name
        self.errors = errors
        self.router = APIRouter(tags=[name], route_class=JsonRoute)
        self._paths: list[re.Pattern[str]] = []

    def post(self, path: str, *, may_stream: bool = False) -> Callable[[Route], Route]:
        """Register a route for `POST`; one that may stream returns a `Response`."""
        return self._route("POST", path, {"response_model": None, "responses": MAY_STREAM} if may_stream else {})

    def get(self, path: str) -> Callable[[Route], Route]:
        """Register a route for `GET`."""
        return self._route("GET", path, {})

    def delete(self, path: str) -> Callable[[Route], Route]:
        """Register a route for `DELETE`."""
        return self._route("DELETE", path, {})

    def owns(self, path: str) -> bool:
        """Return whether a path, or a path template, ends with one of the dialect's paths."""
        return any(own.search(path) for own in self._paths)

    def _route(self, method: str, path: str, options: dict[str, Any]) -> Callable[[Route], Route]:
        self._paths.append(re.compile(compile_path(path)[0].pattern.removeprefix("^")))

        headers = [
            {
                "name": name,
                "in": "header",
                "required": False,
                "schema": {"anyOf": [schema, {"type": "null"}], "title": name.title()},
            }
            for name, schema in HEADERS.items()
        ]

        def register(route: Route) -> Route:
            for where in (UNDER_EPISODE + path, path):
                more = {"openapi_extra": {"parameters": [*headers]}, **options}
                self.router.add_api_route(where, route, methods=[method], **more)
            return route

        return register
