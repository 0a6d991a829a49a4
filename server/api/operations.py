"""Operations: whether the process lives, and whether it can answer."""

from __future__ import annotations

from fastapi import APIRouter

from clients.wire import ServerView
from server.api.state import Parts
from server.errors import Unavailable

router = APIRouter(tags=["operations"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(parts: Parts) -> ServerView:
    """The engine answers too; 503 while it does not."""
    if not await parts.engine.healthy():
        raise Unavailable("the engine is starting", code="engine_unavailable")
    return ServerView(
        status="ready", model=parts.settings.model, name=parts.pointers.name, engine=type(parts.engine).__name__,
        weights="full" if parts.pointers.shared else "adapter", champion=parts.pointers.champion,
        head=parts.pointers.head, context_tokens=parts.engine.context_tokens)
