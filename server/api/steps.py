"""The step of an environment over REST: the route that is called most, by far, in training from outside."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from pydantic import ValidationError

from server.api.access.authentication import own_episode
from server.api.state import Parts, State
from upturn.wire import StepRequest, StepResult


class StepRoute(APIRoute):
    """Reads and writes a right request itself: FastAPI's general way takes longer than the step (measured).

    Whatever is not a plain, right request goes FastAPI's way, and gets its errors there.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        general = super().get_route_handler()

        async def answer(request: Request) -> Response:
            if request.headers.get("content-type") != "application/json":
                return await general(request)
            try:
                body = StepRequest.model_validate_json(await request.body())
            except ValidationError:
                return await general(request)
            parts: State = request.app.state.parts
            episode_id = request.path_params["episode_id"]
            await parts.callers.check_episode(request.state.caller, episode_id)
            result = await step(episode_id, body, parts)
            return Response(result.model_dump_json(), media_type="application/json")

        return answer


router = APIRouter(route_class=StepRoute)


@router.post("/episodes/{episode_id}/steps", dependencies=[own_episode])
async def step(episode_id: str, body: StepRequest, parts: Parts) -> StepResult:
    """Act in the episode's environment."""
    episode = await parts.episodes.get(episode_id)
    if body.tool_call is not None:
        return await parts.environments.call(episode, body.tool_call.name, body.tool_call.arguments)
    return await parts.environments.step(episode, body.action or "")
