"""How a route gets a service: it declares the type of each service it needs, and can reach no other.

    RunsOf = Annotated[Runs, service(Runs)]

    @router.get("/runs")
    async def list_runs(runs: RunsOf) -> RunList: ...

`server/wiring` builds the services, `server/app.py` provides them at the start. This is the only module that reads
them from the application; `tests/unit/project/test_routers.py` holds that, and lists what each router may reach.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from fastapi import Depends, FastAPI
from starlette.requests import HTTPConnection

_ATTRIBUTE = "services"


class Provider:
    """A FastAPI dependency that returns the service of one type."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind

    async def __call__(self, connection: HTTPConnection) -> Any:  # Async: FastAPI runs plain functions in a thread.
        """Return the service for a request or a WebSocket."""
        return self.of(connection.app)

    def of(self, app: Any) -> Any:
        """Return the service of an application."""
        return getattr(app.state, _ATTRIBUTE)[self.kind]


@cache
def provider(kind: Any) -> Provider:
    """Return the only provider of a type."""
    return Provider(kind)


def service(kind: Any) -> Any:
    """Return the dependency that provides the service of a type (a class, or a protocol such as `Engine`)."""
    return Depends(provider(kind))


def provide(app: FastAPI, services: Mapping[Any, object]) -> None:
    """Make services available to the routes of an application, each under its type."""
    setattr(app.state, _ATTRIBUTE, services)
