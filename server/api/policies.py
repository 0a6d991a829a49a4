"""Policy versions: publish, list, promote, roll back (step 11), the ledger; and OpenAI's list of models."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from server.api.access.authentication import CallerOf, needs
from server.api.state import Parts
from server.errors import NotFound
from server.versions import ledger
from server.versions.lineage import read_lineage
from upturn.wire import (
    PolicyLineage,
    PolicyList,
    PolicyPublish,
    PolicyView,
    PromotionList,
    PromotionRequest,
    PromotionView,
)

Version = Annotated[int, Path(ge=0, lt=2**31)]

router = APIRouter(prefix="/v1", tags=["policies"])


@router.get("/models", dependencies=[needs("agent")])
async def list_models(parts: Parts) -> dict[str, Any]:
    """Everything that `model` may name now."""
    loaded = sorted(parts.engine.versions, reverse=True)
    names = [parts.pointers.name, f"{parts.pointers.name}@champion", f"{parts.pointers.name}@head"]
    names += [f"{parts.pointers.name}@{version}" for version in loaded]
    return {
        "object": "list",
        "data": [{"id": name, "object": "model", "created": 0, "owned_by": "upturn"} for name in names],
    }


@router.get("/models/{model:path}", dependencies=[needs("agent")])
async def get_model(model: str, parts: Parts) -> dict[str, Any]:
    """One of them."""
    await parts.residency.load_on_demand(model)
    parts.pointers.resolve(model, parts.engine)
    return {"id": model, "object": "model", "created": 0, "owned_by": "upturn"}


@router.post("/policies", status_code=201, dependencies=[needs("learner")])
async def publish(body: PolicyPublish, parts: Parts) -> PolicyView:
    """Publish a version and wait until it serves."""
    await parts.runs.heartbeat(body.run_id, body.learner)
    return await parts.publisher.publish(body)


@router.get("/policies", dependencies=[needs("learner")])
async def list_policies(parts: Parts) -> PolicyList:
    """All versions, newest first."""
    return PolicyList(data=await asyncio.to_thread(parts.serving.views))


@router.post("/policies/rollback", dependencies=[needs("admin")])
async def rollback(parts: Parts, caller: CallerOf, body: PromotionRequest | None = None) -> PolicyView:
    """Make the champion before this one the champion again."""
    return await parts.champions.rollback(by=caller.name, reason=(body or PromotionRequest()).reason)


@router.get("/policies/{version}", dependencies=[needs("learner")])
async def get_policy(version: Version, parts: Parts) -> PolicyView:
    """One version."""
    found = await asyncio.to_thread(parts.serving.views, version)
    if not found:
        raise NotFound(f"no version {version}", code="version_not_found")
    return found[0]


@router.post("/policies/{version}/promote", dependencies=[needs("admin")])
async def promote(version: Version, parts: Parts, caller: CallerOf, body: PromotionRequest | None = None) -> PolicyView:
    """Make a version the champion."""
    return await parts.champions.promote(version, by=caller.name, reason=(body or PromotionRequest()).reason)


@router.post("/policies/{version}/pin", dependencies=[needs("admin")])
async def pin(version: Version, parts: Parts) -> PolicyView:
    """Keep a version's weights whatever comes; as the champion, it is not taken back by the watch either."""
    return await parts.champions.pin(version, True)


@router.delete("/policies/{version}/pin", dependencies=[needs("admin")])
async def unpin(version: Version, parts: Parts) -> PolicyView:
    """Treat a version like all others again."""
    return await parts.champions.pin(version, False)


@router.get("/policies/{version}/lineage", dependencies=[needs("learner")])
async def get_lineage(
    version: Version, parts: Parts, limit: Annotated[int, Query(ge=1, le=10_000)] = 1000
) -> PolicyLineage:
    """What a version comes from: its versions back to the base, and the episodes that trained it."""
    return await asyncio.to_thread(read_lineage, parts.database, version, limit)


@router.get("/promotions", dependencies=[needs("admin")])
async def list_promotions(parts: Parts, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> PromotionList:
    """The newest rows of the ledger of champions: who decided what, and why."""
    return PromotionList(data=await asyncio.to_thread(ledger.entries, parts.database, limit))


@router.get("/promotions/{number}", dependencies=[needs("admin")])
async def get_promotion(number: Version, parts: Parts) -> PromotionView:
    """One row, with the evidence of the gate."""
    return await asyncio.to_thread(ledger.read_entry, parts.database, number)
