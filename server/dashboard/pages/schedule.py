"""The schedule: will the next run happen, and if not, why. Triggers are set and removed here, and runs rehearsed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Query, Response

from server.dashboard.forms import FormOf
from server.dashboard.frame import fragment, page, see_other
from server.dashboard.inside import Viewer, ViewerOf
from server.dashboard.problems import pages_router
from server.dashboard.toml_text import write_run
from server.errors import BadRequest
from upturn.wire import (
    NotificationList,
    RehearsalView,
    RunView,
    ScheduleView,
    StatusView,
    TriggerView,
)

Id = Annotated[str, Query(max_length=200)]

router = pages_router()


@dataclass(frozen=True, slots=True)
class Forecast:
    """Whether the next run will happen."""

    tone: str
    """`good`, `warn` or `bad`."""
    answer: str
    reasons: list[str]


@router.get("/schedule")
async def schedule(viewer: ViewerOf, rehearsal: Id = "") -> Response:
    """Show triggers, windows, and what holds runs back."""
    view, status, notifications, tried = await asyncio.gather(
        viewer.read(ScheduleView, "/v1/schedule"),
        viewer.maybe(StatusView, "/v1/status"),
        viewer.maybe(NotificationList, "/v1/notifications"),
        _rehearsal(viewer, rehearsal),
    )
    blocking = await viewer.maybe(RunView, f"/v1/runs/{view.unfinished_run}") if view.unfinished_run else None
    first = next_trigger(view.triggers)
    return page(
        viewer,
        "schedule/page.html",
        title="Schedule",
        schedule=view,
        first=first,
        forecast=forecast(view, first, blocking, status),
        blocking=blocking,
        notifications=notifications,
        rehearsal=tried,
        toml=None if view.run is None else write_run(view.run),
    )


@router.get("/schedule/rehearsal")
async def rehearsal(viewer: ViewerOf, id: Id) -> Response:
    """Return the results of a rehearsal so far, which the page asks for while it runs."""
    return fragment(viewer, "schedule/rehearsal.html", ui="./", rehearsal=await _rehearsal(viewer, id))


@router.post("/schedule/rehearse")
async def rehearse(viewer: ViewerOf, form: FormOf) -> Response:
    """Rehearse the runs of all triggers, or of one."""
    trigger = form.text("trigger")
    made = await viewer.post("/v1/rehearsals", {"trigger": trigger} if trigger else {})
    return see_other(viewer.request, f"schedule?rehearsal={made['id']}")


@router.post("/schedule/triggers")
async def set_trigger(viewer: ViewerOf, form: FormOf) -> Response:
    """Set a trigger."""
    await viewer.post("/v1/schedule/triggers", {"name": form.text("name"), "trigger": trigger_of(form)})
    return see_other(viewer.request, "schedule")


@router.post("/schedule/triggers/remove")
async def remove_trigger(viewer: ViewerOf, form: FormOf) -> Response:
    """Remove a trigger that was set here or through the API."""
    await viewer.delete(f"/v1/schedule/triggers/{form.text('name')}")
    return see_other(viewer.request, "schedule")


async def _rehearsal(viewer: Viewer, rehearsal_id: str) -> RehearsalView | None:
    return await viewer.maybe(RehearsalView, f"/v1/rehearsals/{rehearsal_id}") if rehearsal_id else None


def trigger_of(form: FormOf) -> dict[str, Any]:
    """Return the trigger that a form describes.

    Raises:
        BadRequest: a number is none.
    """
    kind = form.text("kind", "cron")
    if kind == "cron":
        return {"kind": kind, "cron": form.text("cron"), "timezone": form.text("timezone", "UTC")}
    try:
        amount = float(form.text("amount"))
    except ValueError:
        raise BadRequest("enter how many hours, episodes, or minutes as a number", param="amount") from None
    if kind == "interval":
        return {"kind": kind, "every_s": amount * 3600}
    if kind == "episodes":
        return {"kind": kind, "count": int(amount) if amount.is_integer() else amount}
    return {"kind": kind, "minutes": amount}


def next_trigger(triggers: list[TriggerView]) -> TriggerView | None:
    """Return the trigger that starts the next run: one that is due, otherwise the next by time, otherwise any."""
    due = sorted((one for one in triggers if one.due_since is not None), key=lambda one: one.due_since or 0.0)
    timed = sorted((one for one in triggers if one.next_at is not None), key=lambda one: one.next_at or 0.0)
    return next(iter([*due, *timed, *triggers]), None)


def forecast(
    view: ScheduleView, first: TriggerView | None, blocking: RunView | None, status: StatusView | None
) -> Forecast:
    """Return whether the next run will happen, as far as the server knows now."""
    reasons = []
    if first is None:
        return Forecast("warn", "No: nothing starts runs by itself.", ["Set a trigger below, or in the settings."])
    errors = [one.text for one in (status.problems if status else []) if one.severity == "error"]
    if blocking is not None and blocking.state == "paused":
        reasons.append(f"run {blocking.id} is paused: resume or cancel it ({blocking.reason or 'no reason given'})")
    elif blocking is not None:
        reasons.append(f"run {blocking.id} must end first; it is {blocking.state}, at step {blocking.step}")
    if status is not None and status.undecided_run:
        reasons.append(f"the promotion of run {status.undecided_run} is being decided")
    if not view.window_open:
        reasons.append("the window is closed now")
    if errors:
        return Forecast("bad", "Probably not: something is wrong.", [*errors, *reasons])
    if blocking is not None and blocking.state == "paused":
        return Forecast("bad", "No, as long as a run is paused.", reasons)
    if first.due_since is not None:
        return Forecast("warn", f"Trigger {first.name} is due, and waits for {first.waits_for}.", reasons)
    if first.next_at is not None:
        return Forecast("good", "Yes, if nothing happens until then.", reasons)
    return Forecast("good", f"Yes, once trigger {first.name} has {first.waits_for}.", reasons)
