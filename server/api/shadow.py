"""Shadow answers over REST: how the newest version would have answered live prompts. Read only."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query

from server.api.access.authentication import needs
from server.api.services import service
from server.store.database import Database
from server.versions.shadow import read_shadows
from upturn.wire import ShadowList

DatabaseOf = Annotated[Database, service(Database)]

router = APIRouter(prefix="/v1", tags=["policies"])


@router.get("/shadow", dependencies=[needs("admin")])
async def list_shadows(database: DatabaseOf, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> ShadowList:
    """List the newest shadow answers next to the served answers."""
    return ShadowList(data=await asyncio.to_thread(read_shadows, database, limit))
