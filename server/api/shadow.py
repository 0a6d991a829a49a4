"""What the newest version would have said to live prompts: read only."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query

from server.api.access.authentication import needs
from server.api.state import Parts
from server.versions.shadow import read_shadows
from upturn.wire import ShadowList

router = APIRouter(prefix="/v1", tags=["policies"])


@router.get("/shadow", dependencies=[needs("admin")])
async def list_shadows(parts: Parts, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> ShadowList:
    """The newest shadow answers, beside what was served."""
    return ShadowList(data=await asyncio.to_thread(read_shadows, parts.database, limit))
