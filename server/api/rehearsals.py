"""Rehearsals over REST: everything that tonight's runs will need, tried once."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter

from server.api.access.authentication import needs
from server.api.access.json_route import JsonRoute
from server.api.services import service
from server.training.rehearsal.rehearsals import Rehearsals
from upturn.wire import RehearsalRequest, RehearsalView

RehearsalsOf = Annotated[Rehearsals, service(Rehearsals)]

router = APIRouter(prefix="/v1/rehearsals", tags=["runs"], dependencies=[needs("admin")], route_class=JsonRoute)


@router.post("", status_code=202)
async def start_rehearsal(body: RehearsalRequest, rehearsals: RehearsalsOf) -> RehearsalView:
    """Start a rehearsal: it trains, publishes, and records nothing."""
    return await rehearsals.start(body)


@router.get("/{rehearsal_id}")
async def get_rehearsal(rehearsal_id: str, rehearsals: RehearsalsOf) -> RehearsalView:
    """Return the results of the last rehearsal so far."""
    return rehearsals.view(rehearsal_id)


@router.post("/{rehearsal_id}/cancel")
async def cancel_rehearsal(rehearsal_id: str, rehearsals: RehearsalsOf) -> RehearsalView:
    """End a rehearsal."""
    return await rehearsals.cancel(rehearsal_id)
