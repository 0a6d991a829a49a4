"""Home: is it well, what is it doing, is it getting better."""

from __future__ import annotations

from fastapi import Response

from server.dashboard.frame import page
from server.dashboard.inside import ViewerOf
from server.dashboard.problems import pages_router

router = pages_router()


@router.get("/")
async def home(viewer: ViewerOf) -> Response:
    """Show the state of the server."""
    return page(viewer, "home.html", title="Home")
