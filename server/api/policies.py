"""Policy versions over REST: publish (step 11), list, promote, roll back; the ledger; and OpenAI's list of models."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from server.api.access.authentication import CallerOf, needs
from server.api.access.json_route import JsonRoute
from server.api.services import service
from server.engines.protocol import Engine
from server.errors import NotFound
from server.store.database import Database
from server.training.judging.paired import read_pairs
from server.training.runs import Runs
from server.versions import ledger, rows
from server.versions.champion import Champions
from server.versions.lineage import read_lineage
from server.versions.publish import Publisher
from server.versions.residency import Residency
from server.versions.routing import TRIAL, Pointers
from server.versions.serving import Serving
from upturn.wire import (
    PairedTasks,
    PolicyLineage,
    PolicyList,
    PolicyPublish,
    PolicyView,
    PromotionList,
    PromotionRequest,
    PromotionView,
)

DatabaseOf = Annotated[Database, service(Database)]
EngineOf = Annotated[Engine, service(Engine)]
PointersOf = Annotated[Pointers, service(Pointers)]
ResidencyOf = Annotated[Residency, service(Residency)]
RunsOf = Annotated[Runs, service(Runs)]
ServingOf = Annotated[Serving, service(Serving)]
PublisherOf = Annotated[Publisher, service(Publisher)]
ChampionsOf = Annotated[Champions, service(Champions)]
Version = Annotated[int, Path(ge=0, lt=2**31)]

router = APIRouter(prefix="/v1", tags=["policies"], route_class=JsonRoute)


@router.get("/models", dependencies=[needs("agent")])
async def list_models(engine: EngineOf, pointers: PointersOf, serving: ServingOf) -> dict[str, Any]:
    """List every name that `model` accepts now."""
    created = await serving.read(rows.created_at)
    loaded = sorted(engine.versions - {TRIAL}, reverse=True)
    aliases = [alias for alias in pointers.aliases if "*" not in alias]
    names = [pointers.name, *aliases, f"{pointers.name}@champion", f"{pointers.name}@head"]
    names += [f"{pointers.name}@{version}" for version in loaded]
    return {
        "object": "list",
        "data": [_model(name, pointers.resolve(name, engine), created, engine) for name in names],
    }


@router.get("/models/{model:path}", dependencies=[needs("agent")])
async def get_model(
    model: str, engine: EngineOf, pointers: PointersOf, residency: ResidencyOf, serving: ServingOf
) -> dict[str, Any]:
    """Return one model."""
    await residency.load_on_demand(pointers.own_name(model))
    version = pointers.resolve(model, engine)
    return _model(model, version, await serving.read(rows.created_at), engine)


@router.post("/policies", status_code=201, dependencies=[needs("learner")])
async def publish(body: PolicyPublish, publisher: PublisherOf, runs: RunsOf) -> PolicyView:
    """Publish a version and wait until it serves."""
    await runs.heartbeat(body.run_id, body.learner)
    return await publisher.publish(body)


@router.get("/policies", dependencies=[needs("learner")])
async def list_policies(serving: ServingOf) -> PolicyList:
    """List all versions, newest first."""
    return PolicyList(data=await asyncio.to_thread(serving.views))


@router.post("/policies/rollback", dependencies=[needs("admin")])
async def rollback(champions: ChampionsOf, caller: CallerOf, body: PromotionRequest | None = None) -> PolicyView:
    """Make the previous champion the champion again."""
    return await champions.rollback(by=caller.name, reason=(body or PromotionRequest()).reason)


@router.get("/policies/{version}", dependencies=[needs("learner")])
async def get_policy(version: Version, serving: ServingOf) -> PolicyView:
    """Return one version."""
    views = await asyncio.to_thread(serving.views, version)
    if not views:
        raise NotFound(f"version {version} not found", code="version_not_found")
    return views[0]


@router.post("/policies/{version}/promote", dependencies=[needs("admin")])
async def promote(
    version: Version, champions: ChampionsOf, caller: CallerOf, body: PromotionRequest | None = None
) -> PolicyView:
    """Make a version the champion."""
    return await champions.promote(version, by=caller.name, reason=(body or PromotionRequest()).reason)


@router.post("/policies/{version}/pin", dependencies=[needs("admin")])
async def pin(version: Version, champions: ChampionsOf) -> PolicyView:
    """Keep a version's weights permanently. The live-reward watch does not roll back a pinned champion."""
    return await champions.pin(version, True)


@router.delete("/policies/{version}/pin", dependencies=[needs("admin")])
async def unpin(version: Version, champions: ChampionsOf) -> PolicyView:
    """Undo a pin."""
    return await champions.pin(version, False)


@router.get("/policies/{version}/lineage", dependencies=[needs("learner")])
async def get_lineage(
    version: Version, database: DatabaseOf, limit: Annotated[int, Query(ge=1, le=10_000)] = 1000
) -> PolicyLineage:
    """Return a version's ancestors back to the base, and the episodes that trained it."""
    return await asyncio.to_thread(read_lineage, database, version, limit)


@router.get("/promotions", dependencies=[needs("admin")])
async def list_promotions(database: DatabaseOf, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> PromotionList:
    """List the newest rows of the ledger of champions: who decided what, and why."""
    return PromotionList(data=await asyncio.to_thread(ledger.entries, database, limit))


@router.get("/promotions/{number}", dependencies=[needs("admin")])
async def get_promotion(number: Version, database: DatabaseOf) -> PromotionView:
    """Return one row of the ledger, with the gate's evidence."""
    return await asyncio.to_thread(ledger.read_entry, database, number)


@router.get("/promotions/{number}/tasks", dependencies=[needs("admin")])
async def get_paired_tasks(number: Version, database: DatabaseOf) -> PairedTasks:
    """Return the episodes behind a decision of the gate, paired by task."""
    return await asyncio.to_thread(read_pairs, database, number)


def _model(name: str, version: int, created: dict[int, float], engine: Engine) -> dict[str, Any]:
    """Return a model in OpenAI's form, with vLLM's name for the context's length in tokens."""
    return {
        "id": name,
        "object": "model",
        "created": int(created.get(version) or time.time()),
        "owned_by": "upturn",
        "max_model_len": engine.context_tokens,
    }
