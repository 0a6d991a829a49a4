"""The schedule over REST: its triggers, and what each of them waits for."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter

from server.api.access.authentication import needs
from server.api.access.json_route import JsonRoute
from server.api.services import service
from server.training.scheduling.schedule import Schedule
from upturn.wire import ScheduleView, TriggerCreate, TriggerList, TriggerView

ScheduleOf = Annotated[Schedule, service(Schedule)]

router = APIRouter(prefix="/v1/schedule", tags=["runs"], route_class=JsonRoute)


@router.get("", dependencies=[needs("learner")])
async def get_schedule(schedule: ScheduleOf) -> ScheduleView:
    """Return when runs start automatically, and what holds them back."""
    return await schedule.view()


@router.get("/triggers", dependencies=[needs("admin")])
async def list_triggers(schedule: ScheduleOf) -> TriggerList:
    """List all triggers, sorted by name."""
    return TriggerList(data=(await schedule.view()).triggers)


@router.post("/triggers", status_code=201, dependencies=[needs("admin")])
async def create_trigger(body: TriggerCreate, schedule: ScheduleOf) -> TriggerView:
    """Create a trigger; it is stored in the database."""
    return await schedule.add(body)


@router.delete("/triggers/{name}", status_code=204, dependencies=[needs("admin")])
async def delete_trigger(name: str, schedule: ScheduleOf) -> None:
    """Remove a trigger that was created by API. Triggers from the settings are removed there."""
    await schedule.remove(name)
