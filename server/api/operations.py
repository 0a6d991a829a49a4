"""Operations: liveness, readiness and metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from server.api.access.authentication import needs
from server.api.access.draining import Draining
from server.api.services import service
from server.engines.protocol import Engine
from server.errors import EngineError, Unavailable
from server.metrics import Metrics
from server.readiness import Readiness
from server.recording.trainable import summary as summary_of
from server.recording.turns import Turns
from server.versions.routing import Pointers
from upturn.wire import RecentTurns, ServerView


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
ReadinessOf = Annotated[Readiness, service(Readiness)]
TurnsOf = Annotated[Turns, service(Turns)]

router = APIRouter(tags=["operations"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Return 200 while the process responds."""
    return {"status": "ok"}


@router.get("/health", include_in_schema=False)
async def health(engine: EngineOf, draining: DrainingOf) -> Response:
    """Return an empty 200 while the engine can answer, otherwise 503, as vLLM does; `/readyz` says more."""
    draining.check()
    if not engine.available:
        raise EngineError("the engine is starting; try again in a moment")
    return Response()


@router.get("/metrics", response_class=PlainTextResponse, dependencies=[needs("metrics")])
async def metrics(metrics: MetricsOf, pointers: PointersOf, turns: TurnsOf, engine: EngineOf) -> Response:
    """Return the metrics in Prometheus' text format."""
    metrics.champion.set(pointers.champion)
    metrics.head.set(pointers.head)
    metrics.busy.set(turns.busy)
    metrics.engine_up.set(engine.available)
    return Response(metrics.text(), media_type="text/plain; version=0.0.4")


@router.get("/readyz", response_model=ServerView)
async def readyz(
    facts: FactsOf,
    pointers: PointersOf,
    engine: EngineOf,
    metrics: MetricsOf,
    readiness: ReadinessOf,
    draining: DrainingOf,
) -> ServerView | JSONResponse:
    """Return 200 if requests can be answered and recorded, otherwise 503, with the state of each part."""
    draining.check()
    parts = await readiness.parts()
    views = {name: part.view() for name, part in parts.items()}
    recent, reasons = metrics.recent_turns()
    untrainable = sum(reasons.values())
    share = untrainable / recent if recent else 0.0
    turns = RecentTurns(
        recent=recent, untrainable=untrainable, share=share, reasons=reasons, summary=summary_of(recent, reasons)
    )
    blocking = [part for part in parts.values() if part.blocks and not part.ok]
    if blocking:
        summary = "not ready: " + "; ".join(part.advice or part.state for part in blocking)
        error = Unavailable(summary, code=blocking[0].code)
        shown = {name: view.model_dump(mode="json") for name, view in views.items()}
        more = {"status": "not ready", "summary": summary, "parts": shown, "turns": turns.model_dump(mode="json")}
        return JSONResponse({**error.body(), **more}, error.status_code, error.headers())
    failed = [name for name, part in parts.items() if not part.ok]
    return ServerView(
        summary="ready, but look at: " + ", ".join(failed) if failed else "ready",
        parts=views,
        turns=turns,
        status="ready",
        model=facts.model,
        name=pointers.name,
        engine=type(engine).__name__,
        weights=pointers.weights,
        champion=pointers.champion,
        head=pointers.head,
        context_tokens=engine.context_tokens,
        placement=f"{facts.placement}; precision {engine.precision}",
    )
