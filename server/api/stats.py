"""What a person wants to see at a glance: the state of everything (`/v1/status`), and time series (`/v1/stats`)."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from typing import Annotated

from fastapi import APIRouter, Query

from server.api.access.authentication import needs
from server.api.operations import ServerFacts
from server.api.services import service
from server.engines.protocol import Engine
from server.errors import Unavailable
from server.memory import resident_bytes
from server.metrics import Metrics
from server.readiness import Readiness
from server.recording.reading.hourly import read_stats
from server.recording.reading.indexer import Indexer
from server.recording.trainable import summary
from server.recording.turns import Turns
from server.store.database import Database
from server.training import now
from server.training.scheduling.schedule import Schedule
from server.versions.routing import Pointers
from upturn.wire import Problem, ProcessMemory, StatsView, StatusView, Trend

DatabaseOf = Annotated[Database, service(Database)]
EngineOf = Annotated[Engine, service(Engine)]
FactsOf = Annotated[ServerFacts, service(ServerFacts)]
IndexerOf = Annotated[Indexer, service(Indexer)]
MetricsOf = Annotated[Metrics, service(Metrics)]
PointersOf = Annotated[Pointers, service(Pointers)]
ReadinessOf = Annotated[Readiness, service(Readiness)]
ScheduleOf = Annotated[Schedule, service(Schedule)]
TurnsOf = Annotated[Turns, service(Turns)]

TREND_S = 14 * 86_400
DAY_S = 86_400.0
MANY, FEW_TURNS = 0.5, 20
"""Share of untrainable turns that is a problem, and turns below which it says nothing."""

router = APIRouter(prefix="/v1", tags=["operations"])


@router.get("/stats", dependencies=[needs("learner")])
async def get_stats(
    index: IndexerOf,
    opened_from: Annotated[float | None, Query(alias="from", ge=0, lt=4e9, allow_inf_nan=False)] = None,
    opened_before: Annotated[float | None, Query(alias="to", ge=0, lt=4e9, allow_inf_nan=False)] = None,
    bucket: Annotated[int | None, Query(ge=300, le=365 * 86_400)] = None,
) -> StatsView:
    """Return time series of recorded episodes.

    `from` and `to` are Unix seconds; the default is the last day. `bucket` is the length of a bucket in seconds, a
    multiple of 300; by default it suits the period.
    """
    until = time.time() if opened_before is None else opened_before
    since = max(0.0, until - DAY_S) if opened_from is None else opened_from
    if not await index.catch_up():
        raise _no_index()

    def read() -> StatsView:
        try:
            with index.file.read() as connection:
                return read_stats(connection, since, until, bucket, index.missing)
        except sqlite3.Error as error:
            index.failed(error)
            raise _no_index() from error

    return await asyncio.to_thread(read)


@router.get("/status", dependencies=[needs("learner")])
async def get_status(
    database: DatabaseOf,
    engine: EngineOf,
    facts: FactsOf,
    index: IndexerOf,
    metrics: MetricsOf,
    pointers: PointersOf,
    readiness: ReadinessOf,
    schedule: ScheduleOf,
    turns: TurnsOf,
) -> StatusView:
    """Return what the server is doing, whether it is well, and whether the policy gets better."""
    parts, planned, _ = await asyncio.gather(readiness.parts(), schedule.view(), index.catch_up())
    problems = [
        Problem(
            part=name,
            severity="error" if part.blocks else "warning",
            text=part.advice or f"{name} is {part.state}: see the server's log",
        )
        for name, part in parts.items()
        if not part.ok
    ]
    rates, at = metrics.rates(), time.time()

    def read() -> StatusView:
        with database.read() as session:
            training, undecided = now.training_now(session), now.undecided_run(session)
            failed, versions, opened = now.failed_run(session), now.champions(session), now.open_episodes(session)
        problems.extend(_of_run(failed))
        problems.extend(_of_turns(metrics))
        problems.extend(_of_index(index))
        ready = all(problem.severity != "error" for problem in problems)
        first = sorted(problems, key=lambda problem: problem.severity != "error")
        return StatusView(
            at=at,
            name=pointers.name,
            model=facts.model,
            engine=type(engine).__name__,
            weights=pointers.weights,
            champion=pointers.champion,
            head=pointers.head,
            canary=pointers.canary,
            ready=ready,
            summary=first[0].text if first else "all is well",
            problems=first,
            open_episodes=opened,
            turns_in_progress=turns.busy,
            turns_per_s=rates.turns,
            prompt_tokens_per_s=rates.prompt_tokens,
            completion_tokens_per_s=rates.completion_tokens,
            memory=[ProcessMemory(name=name, resident_bytes=held) for name, held in resident_bytes().items()],
            training=training,
            undecided_run=undecided,
            next_run=now.next_run(planned),
            trend=_trend(index, versions, at),
            indexed=index.usable and index.missing == 0,
        )

    return await asyncio.to_thread(read)


def _trend(index: Indexer, versions: list[int], at: float) -> list[Trend]:
    if not index.usable:
        return []
    try:
        with index.file.read() as connection:
            return now.trend(connection, versions, at - TREND_S)
    except sqlite3.Error as error:
        index.failed(error)
        return []


def _of_run(failed: tuple[str, str] | None) -> list[Problem]:
    if failed is None:
        return []
    run_id, reason = failed
    return [Problem(part="run", severity="warning", text=f"the newest run, {run_id}, has failed: {reason}")]


def _of_turns(metrics: Metrics) -> list[Problem]:
    recent, reasons = metrics.recent_turns()
    if recent < FEW_TURNS or sum(reasons.values()) < MANY * recent:
        return []
    return [Problem(part="training", severity="warning", text=summary(recent, reasons))]


def _of_index(index: Indexer) -> list[Problem]:
    if index.usable:
        return []
    said = f"the index of episodes is not available, so searches and time series lack it: {index.trouble}"
    return [Problem(part="index", severity="warning", text=said)]


def _no_index() -> Unavailable:
    return Unavailable(
        "the index of episodes is being built or cannot be written: try again in a minute, or see the server's log",
        code="index_unavailable",
    )
