"""Operations: whether the process lives, and whether it can answer."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse, Response

from server.api.access.authentication import needs
from server.api.state import Parts
from server.errors import Unavailable
from upturn.wire import ServerView

router = APIRouter(tags=["operations"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/metrics", response_class=PlainTextResponse, dependencies=[needs("admin")])
async def metrics(parts: Parts) -> Response:
    """What operations watch, in Prometheus' text format."""
    parts.metrics.champion.set(parts.pointers.champion)
    parts.metrics.head.set(parts.pointers.head)
    parts.metrics.busy.set(parts.turns.busy)
    parts.metrics.engine_up.set(parts.engine.available)
    return Response(parts.metrics.text(), media_type="text/plain; version=0.0.4")


@router.get("/readyz")
async def readyz(parts: Parts) -> ServerView:
    """The engine answers too; 503 while it does not."""
    if not await parts.engine.healthy():
        raise Unavailable("the engine is starting", code="engine_unavailable")
    return ServerView(
        status="ready",
        model=parts.settings.model,
        name=parts.pointers.name,
        engine=type(parts.engine).__name__,
        weights="full" if parts.pointers.shared else "adapter",
        champion=parts.pointers.champion,
        head=parts.pointers.head,
        context_tokens=parts.engine.context_tokens,
        placement=parts.placement,
    )
