"""Policy versions: publish, list, promote, roll back (step 11); and OpenAI's list of models."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Path

from clients.wire import PolicyList, PolicyPublish, PolicyView
from server.api.access import needs
from server.api.state import Parts
from server.errors import NotFound

Version = Annotated[int, Path(ge=0, lt=2**31)]

router = APIRouter(prefix="/v1", tags=["policies"])


@router.get("/models", dependencies=[needs("agent")])
async def list_models(parts: Parts) -> dict[str, Any]:
    """Everything that `model` may name now."""
    loaded = sorted(parts.engine.versions, reverse=True)
    names = [parts.pointers.name, f"{parts.pointers.name}@champion", f"{parts.pointers.name}@head"]
    names += [f"{parts.pointers.name}@{version}" for version in loaded]
    return {"object": "list", "data": [
        {"id": name, "object": "model", "created": 0, "owned_by": "upturn"} for name in names]}


@router.get("/models/{model:path}", dependencies=[needs("agent")])
async def get_model(model: str, parts: Parts) -> dict[str, Any]:
    """One of them."""
    parts.pointers.resolve(model, parts.engine)
    return {"id": model, "object": "model", "created": 0, "owned_by": "upturn"}


@router.post("/policies", status_code=201, dependencies=[needs("learner")])
async def publish(body: PolicyPublish, parts: Parts) -> PolicyView:
    """Publish a version and wait until it serves."""
    await parts.runs.heartbeat(body.run_id, body.learner)
    return await parts.swap.publish(body)


@router.get("/policies", dependencies=[needs("learner")])
async def list_policies(parts: Parts) -> PolicyList:
    """All versions, newest first."""
    return PolicyList(data=await asyncio.to_thread(parts.swap.views))


@router.post("/policies/rollback", dependencies=[needs("admin")])
async def rollback(parts: Parts) -> PolicyView:
    """Make the champion before this one the champion again."""
    return await parts.swap.rollback()


@router.get("/policies/{version}", dependencies=[needs("learner")])
async def get_policy(version: Version, parts: Parts) -> PolicyView:
    """One version."""
    found = await asyncio.to_thread(parts.swap.views, version)
    if not found:
        raise NotFound(f"no version {version}", code="version_not_found")
    return found[0]


@router.post("/policies/{version}/promote", dependencies=[needs("admin")])
async def promote(version: Version, parts: Parts) -> PolicyView:
    """Make a version the champion."""
    return await parts.swap.promote(version)
