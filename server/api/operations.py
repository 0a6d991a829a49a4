"""Operations: liveness, readiness and metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse, Response

from server.api.access.authentication import needs
from server.api.access.draining import Draining
from server.api.services import service
from server.engines.protocol import Engine
from server.errors import Unavailable
from server.metrics import Metrics
from server.recording.turns import Turns
from server.versions.routing import Pointers
from upturn.wire import ServerView


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """Facts about this server that never change while it runs."""

    model: str
    """The base model, as the settings name it."""
    placement: str
    """GPU assignment of engine and learner."""


DrainingOf = Annotated[Draining, service(Draining)]
EngineOf = Annotated[Engine, service(Engine)]
FactsOf = Annotated[ServerFacts, service(ServerFacts)]
MetricsOf = Annotated[Metrics, service(Metrics)]
PointersOf = Annotated[Pointers, service(Pointers)]
TurnsOf = Annotated[Turns, service(Turns)]

router = APIRouter(tags=["operations"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Return 200 while the process responds."""
    return {"status": "ok"}


@router.get("/metrics", response_class=PlainTextResponse, dependencies=[needs("admin")])
async def metrics(metrics: MetricsOf, pointers: PointersOf, turns: TurnsOf, engine: EngineOf) -> Response:
    """Return the metrics in Prometheus' text format."""
    metrics.champion.set(pointers.champion)
    metrics.head.set(pointers.head)
    metrics.busy.set(turns.busy)
    metrics.engine_up.set(engine.available)
    return Response(metrics.text(), media_type="text/plain; version=0.0.4")


@router.get("/readyz")
async def readyz(facts: FactsOf, pointers: PointersOf, engine: EngineOf, draining: DrainingOf) -> ServerView:
    """Return 200 while the engine responds too, otherwise 503."""
    draining.check()
    if not await engine.healthy():
        raise Unavailable("the engine is starting", code="engine_unavailable")
    return ServerView(
        status="ready",
        model=facts.model,
        name=pointers.name,
        engine=type(engine).__name__,
        weights="full" if pointers.shared else "adapter",
        champion=pointers.champion,
        head=pointers.head,
        context_tokens=engine.context_tokens,
        placement=f"{facts.placement}; precision {engine.precision}",
    )
