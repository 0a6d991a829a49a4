"""All pages of the dashboard, in the order in which their routes are tried."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from server.dashboard import assets, login
from server.dashboard.pages import (
    by_hand,
    compare,
    episode,
    episodes,
    home,
    leaderboard,
    learning,
    runs,
    schedule,
    start_run,
    untrainable,
    versions,
)
from server.dashboard.problems import pages_router
from server.errors import NotFound

last = pages_router()


@last.get("")
async def without_slash(request: Request) -> Response:
    """Lead to the home page: links on it are relative."""
    return RedirectResponse(f"{request.scope['path'].rpartition('/')[2]}/", 307)


@last.get("/{place:path}")
async def unknown(place: str) -> Response:
    """Say that there is no such page."""
    raise NotFound(f"there is no page {place!r}")


PAGES = (
    home,
    learning,
    versions,
    leaderboard,
    start_run,
    runs,
    schedule,
    episodes,
    episode,
    untrainable,
    compare,
    by_hand,
)
"""The modules of pages, each with a `router`."""
ROUTERS: tuple[APIRouter, ...] = (
    assets.router,
    login.router,
    *(page.router for page in PAGES),
    last,
)
