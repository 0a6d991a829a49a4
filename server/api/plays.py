"""Plays: the server plays tasks with a policy; progress by GET and as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from server.api.dialects.streams import MAY_STREAM
from server.api.state import Parts
from upturn.wire import PlayRequest, PlayView

router = APIRouter(prefix="/v1/plays", tags=["plays"])


@router.post("", status_code=202)
async def start_play(body: PlayRequest, parts: Parts) -> PlayView:
    """Begin a play."""
    await parts.residency.load_on_demand(body.policy)
    return await parts.plays.view(await parts.plays.start(body))


@router.get("/{play_id}")
async def get_play(play_id: str, parts: Parts) -> PlayView:
    """Where a play stands, with the results of its finished episodes."""
    return await parts.plays.view(play_id)


@router.post("/{play_id}/cancel")
async def cancel_play(play_id: str, parts: Parts) -> PlayView:
    """Stop a play."""
    await parts.plays.view(play_id, results=False)
    await parts.plays.cancel(play_id)
    return await parts.plays.view(play_id)


@router.get("/{play_id}/events", response_class=StreamingResponse, responses=MAY_STREAM)
async def play_events(play_id: str, parts: Parts) -> StreamingResponse:
    """Progress as server-sent events, one about each second, until the play ends."""
    first = await parts.plays.view(play_id, results=False)

    async def events() -> AsyncIterator[str]:
        view = first
        while True:
            yield f"data: {view.model_dump_json()}\n\n"
            if view.state != "running":
                return
            view = await parts.plays.view(play_id, results=False, wait_s=1.0)

    return StreamingResponse(events(), media_type="text/event-stream")
