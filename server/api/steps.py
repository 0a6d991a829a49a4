"""Environment steps over REST: by far the most frequent request when agents play from outside."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from pydantic import ValidationError

from server.api.access.authentication import own_episode
from server.api.access.callers import Callers
from server.api.services import provider, service
from server.environments.open_environments import OpenEnvironments
from server.recording.episodes import Episodes
from upturn.wire import StepRequest, StepResult

EnvironmentsOf = Annotated[OpenEnvironments, service(OpenEnvironments)]
EpisodesOf = Annotated[Episodes, service(Episodes)]


class StepRoute(APIRoute):
    """Parses valid JSON requests itself, since FastAPI's parsing takes longer than the step (measured).

    FastAPI handles any other request and produces its errors.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the function that answers a request."""
        general = super().get_route_handler()

        async def answer(request: Request) -> Response:
            if request.headers.get("content-type") != "application/json":
                return await general(request)
            try:
                body = StepRequest.model_validate_json(await request.body())
            except ValidationError:
                return await general(request)
            callers, episodes, environments = (
                provider(kind).of(request.app) for kind in (Callers, Episodes, OpenEnvironments)
            )
            episode_id = request.path_params["episode_id"]
            await callers.check_episode(request.state.caller, episode_id)
            result = await step(episode_id, body, episodes, environments)
            return Response(result.model_dump_json(), media_type="application/json")

        return answer


router = APIRouter(prefix="/v1", tags=["episodes"], route_class=StepRoute)


@router.post("/episodes/{episode_id}/steps", dependencies=[own_episode])
async def step(episode_id: str, body: StepRequest, episodes: EpisodesOf, environments: EnvironmentsOf) -> StepResult:
    """Act in the episode's environment."""
    episode = await episodes.get(episode_id)
    if body.tool_call is not None:
        return await environments.call(episode, body.tool_call.name, body.tool_call.arguments)
    return await environments.step(episode, body.action or "")
