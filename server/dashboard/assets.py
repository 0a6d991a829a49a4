"""Scripts, styles and pictures of the pages, under a path with the hash of all of them, so that browsers keep them."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse, Response

from server.errors import NotFound

STATIC = Path(__file__).parent / "static"
TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
"""Media types by ending; no other file is served."""
FOREVER = "public, max-age=31536000, immutable"

router = APIRouter(prefix="/ui/static", include_in_schema=False)


@cache
def _files() -> dict[str, Path]:
    """Return the served files by their path below `static/`."""
    found = (path for path in sorted(STATIC.rglob("*")) if path.suffix in TYPES)
    return {path.relative_to(STATIC).as_posix(): path for path in found}


@cache
def digest() -> str:
    """Return a hash of all files. Scripts import each other by relative paths, so one hash stands for all of them."""
    together = hashlib.sha256()
    for name, path in _files().items():
        together.update(f"{name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return together.hexdigest()[:16]


@router.get("/{version}/{name:path}")
async def file(version: str, name: str) -> Response:
    """Return a file. A page from before an upgrade, which asks with another hash, gets today's file."""
    path = _files().get(name)
    if path is None:
        raise NotFound(f"path not found: /ui/static/{version}/{name}")
    kept = FOREVER if version == digest() else "no-cache"
    headers = {
        "cache-control": kept,
        "x-content-type-options": "nosniff",
        "content-security-policy": "default-src 'none'",
    }
    return FileResponse(path, media_type=TYPES[path.suffix], headers=headers)
