"""The schedule: its triggers, and what each of them waits for."""

from __future__ import annotations

from fastapi import APIRouter

from server.api.access.authentication import needs
from server.api.state import Parts
from upturn.wire import ScheduleView, TriggerCreate, TriggerList, TriggerView

router = APIRouter(prefix="/v1/schedule", tags=["runs"])


@router.get("", dependencies=[needs("learner")])
async def get_schedule(parts: Parts) -> ScheduleView:
    """When runs start by themselves, and what holds them back."""
    return await parts.schedule.view()


@router.get("/triggers", dependencies=[needs("admin")])
async def list_triggers(parts: Parts) -> TriggerList:
    """All triggers by name."""
    return TriggerList(data=(await parts.schedule.view()).triggers)


@router.post("/triggers", status_code=201, dependencies=[needs("admin")])
async def create_trigger(body: TriggerCreate, parts: Parts) -> TriggerView:
    """Set a trigger; it is kept in the database."""
    return await parts.schedule.add(body)


@router.delete("/triggers/{name}", status_code=204, dependencies=[needs("admin")])
async def delete_trigger(name: str, parts: Parts) -> None:
    """Remove a trigger that was set here; one of the settings is removed there."""
    await parts.schedule.remove(name)
