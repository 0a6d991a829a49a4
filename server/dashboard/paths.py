"""Where a page is: links are relative, so that a prefix which a proxy adds stays in them."""

from __future__ import annotations

from fastapi import Request

ROOT = "/ui/"


def way_back(request: Request) -> str:
    """Return the relative path from a page to `/ui/`: `./` from its own level, `../` from one level below."""
    return "../" * request.scope["path"].partition(ROOT)[2].count("/") or "./"


def own_place(request: Request) -> str:
    """Return the path and query of a page below `/ui/`."""
    query = request.scope.get("query_string", b"").decode("latin-1")
    path: str = request.scope["path"]
    return path.partition(ROOT)[2] + (f"?{query}" if query else "")
