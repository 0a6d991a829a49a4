"""Plays over REST: the server plays tasks with a policy; progress by GET and as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from server.api.access.authentication import needs
from server.api.access.json_route import JsonRoute
from server.api.dialects.dialect import MAY_STREAM, UNBUFFERED
from server.api.services import service
from server.environments.plays import Plays
from server.versions.residency import Residency
from upturn.wire import PlayRequest, PlayView

PlaysOf = Annotated[Plays, service(Plays)]
ResidencyOf = Annotated[Residency, service(Residency)]

router = APIRouter(prefix="/v1/plays", tags=["plays"], dependencies=[needs("admin")], route_class=JsonRoute)


@router.post("", status_code=202)
async def start_play(body: PlayRequest, plays: PlaysOf, residency: ResidencyOf) -> PlayView:
    """Start a play."""
    await residency.load_on_demand(body.policy)
    return await plays.view(await plays.start(body))


@router.get("/{play_id}")
async def get_play(play_id: str, plays: PlaysOf) -> PlayView:
    """Return a play's progress, with the results of its finished episodes."""
    return await plays.view(play_id)


@router.post("/{play_id}/cancel")
async def cancel_play(play_id: str, plays: PlaysOf) -> PlayView:
    """Stop a play."""
    await plays.view(play_id, results=False)
    await plays.cancel(play_id)
    return await plays.view(play_id)


@router.get("/{play_id}/events", response_class=StreamingResponse, responses=MAY_STREAM)
async def play_events(play_id: str, plays: PlaysOf) -> StreamingResponse:
    """Stream progress as server-sent events, about one per second, until the play ends."""
    first = await plays.view(play_id, results=False)

    async def events() -> AsyncIterator[str]:
        view = first
        while True:
            yield f"data: {view.model_dump_json()}\n\n"
            if view.state != "running":
                return
            view = await plays.view(play_id, results=False, wait_s=1.0)

    return StreamingResponse(events(), media_type="text/event-stream", headers=UNBUFFERED)
