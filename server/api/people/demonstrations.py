"""Demonstrations over REST: a person's answer becomes a recorded turn, and acts in the episode's environment.

It is the same as one turn of a play by an environment's solver (`server/environments/players.py`).
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter

from env_adapters.hosting.instances import plain_text
from server.api.access.authentication import own_episode
from server.api.access.json_route import JsonRoute
from server.api.services import service
from server.engines.protocol import SamplingParams
from server.environments.open_environments import OpenEnvironments
from server.errors import Conflict
from server.recording.episodes import Episodes
from server.recording.turn_request import TurnRequest
from server.recording.turns import Turns
from upturn.wire import DemonstrationRequest, StepResult

EnvironmentsOf = Annotated[OpenEnvironments, service(OpenEnvironments)]
EpisodesOf = Annotated[Episodes, service(Episodes)]
TurnsOf = Annotated[Turns, service(Turns)]

router = APIRouter(prefix="/v1", tags=["episodes"], route_class=JsonRoute)


@router.post("/episodes/{episode_id}/demonstrations", status_code=201, dependencies=[own_episode])
async def demonstrate(
    episode_id: str, body: DemonstrationRequest, episodes: EpisodesOf, turns: TurnsOf, environments: EnvironmentsOf
) -> StepResult:
    """Record an answer that a person wrote as a turn, and act with it in the episode's environment."""
    episode = await episodes.get(episode_id)
    if episode.environment is None:
        raise Conflict(f"episode {episode.id} has no environment", code="no_environment")
    messages = [message.model_dump() for message in body.messages]
    asked = TurnRequest(messages, SamplingParams(1))
    turns.check_length(asked)
    await turns.check(asked)
    if body.turn is not None and body.turn != episode.next_index:  # Nothing is awaited from here to the turn's count.
        raise Conflict(
            f"turn {body.turn} is taken; the next one is {episode.next_index}: read the episode, then answer again",
            code="turn_taken",
        )
    answer = plain_text(body.answer)
    await turns.demonstrate(episode, messages, answer)
    return await environments.step(episode, answer)
