"""Episodes over REST: open, read, close, erase. Steps are in `steps.py`, rewards in `rewards.py`."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Request

from server.api.access.authentication import CallerOf, NoTrain, needs, own_episode
from server.api.access.json_route import JsonRoute
from server.api.opening import Openings
from server.api.services import service
from server.recording.episodes import Episodes
from server.recording.privacy import Privacy
from server.recording.transcript import read_episode
from server.store.database import Database
from upturn.wire import ChatMessage, EpisodeClose, EpisodeOpen, EpisodeOpened, EpisodeTrained, EpisodeView

DatabaseOf = Annotated[Database, service(Database)]
EpisodesOf = Annotated[Episodes, service(Episodes)]
OpeningsOf = Annotated[Openings, service(Openings)]
PrivacyOf = Annotated[Privacy, service(Privacy)]

router = APIRouter(prefix="/v1", tags=["episodes"], route_class=JsonRoute)


@router.post("/episodes", status_code=201, dependencies=[needs("agent")])
async def open_episode(
    body: EpisodeOpen, request: Request, openings: OpeningsOf, caller: CallerOf, no_train: NoTrain
) -> EpisodeOpened:
    """Open an episode of an environment, or of a live agent."""
    if no_train:
        body = body.model_copy(update={"trainable": False})
    opened = await openings.open(body, caller.key_hash, request.is_disconnected)
    episode, reset = opened.episode, opened.reset
    return EpisodeOpened(
        id=episode.id,
        messages=[ChatMessage.model_validate(m) for m in reset.messages] if reset else [],
        tools=opened.tools,
        key=opened.key,
        horizon=episode.horizon,
        policy_version=episode.policy_version,
        base_url=f"{str(request.base_url).rstrip('/')}/episodes/{episode.id}/v1",
    )


@router.get("/episodes/{episode_id}", dependencies=[own_episode])
async def get_episode(episode_id: str, database: DatabaseOf) -> EpisodeView:
    """Return an episode with its whole transcript."""
    return await asyncio.to_thread(read_episode, database, episode_id)


@router.get("/episodes/{episode_id}/trained", dependencies=[own_episode])
async def trained(episode_id: str, privacy: PrivacyOf) -> EpisodeTrained:
    """List the runs and policy versions that were trained on an episode."""
    return await privacy.trained(episode_id)


@router.delete("/episodes/{episode_id}", status_code=204, dependencies=[needs("admin")])
async def erase_episode(episode_id: str, privacy: PrivacyOf) -> None:
    """Erase an episode and everything recorded of it."""
    await privacy.erase(episode_id)


@router.post("/episodes/{episode_id}/close", dependencies=[own_episode])
async def close_episode(episode_id: str, body: EpisodeClose, episodes: EpisodesOf, database: DatabaseOf) -> EpisodeView:
    """End an episode."""
    await episodes.end(await episodes.get(episode_id), "closed", reason=body.reason)
    return await get_episode(episode_id, database)
