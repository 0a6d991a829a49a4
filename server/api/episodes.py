"""Episodes over REST: open, act, reward, close, read, erase; and the list of environments."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request

from clients.wire import (
    ChatMessage,
    EnvironmentList,
    EnvironmentView,
    EpisodeClose,
    EpisodeOpen,
    EpisodeOpened,
    EpisodeTrained,
    EpisodeView,
    RewardRequest,
    RewardView,
    StepRequest,
    StepResult,
    TaskList,
)
from env_adapters import family, names
from env_adapters.protocol import UnknownTask
from server.api.access import CallerOf, NoTrain, needs, own_episode
from server.api.state import Parts
from server.errors import BadRequest, NotFound
from server.recording.transcript import read_episode

router = APIRouter(prefix="/v1", tags=["episodes"])


@router.get("/environments", dependencies=[needs("agent")])
def list_environments() -> EnvironmentList:
    """What can be played."""
    found = [family(name) for name in names()]
    return EnvironmentList(data=[
        EnvironmentView(name=f.name, description=f.description, splits={s: len(f.tasks(s)) for s in f.splits()})
        for f in found])


@router.get("/environments/{name}/tasks", dependencies=[needs("agent")])
def list_tasks(name: str, split: str = "train") -> TaskList:
    """The tasks of one split."""
    try:
        return TaskList(environment=name, split=split, tasks=family(name).tasks(split))
    except UnknownTask as error:
        raise NotFound(str(error.args[0]), code="environment_not_found") from error


@router.post("/episodes", status_code=201, dependencies=[needs("agent")])
async def open_episode(body: EpisodeOpen, request: Request, parts: Parts, caller: CallerOf, no_train: NoTrain
                       ) -> EpisodeOpened:
    """Open an episode of an environment, or of a live agent."""
    if no_train:
        body = body.model_copy(update={"trainable": False})
    version = parts.pointers.resolve(body.policy, parts.engine)
    horizon = body.horizon or parts.settings.default_horizon
    messages: list[ChatMessage] = []
    environment = None
    if body.environment is not None:
        environment, reset = await parts.sessions.prepare(body.environment, body.task, body.seed)
        messages = [ChatMessage.model_validate(m) for m in reset.messages]
    elif body.task is not None:
        raise BadRequest("a task needs an environment", param="task")
    episode, key = await parts.episodes.open(body, policy_version=version, horizon=horizon,
                                             owner_hash=caller.key_hash)
    if environment is not None:
        parts.sessions.attach(episode, environment)
    await episode.opened()
    return EpisodeOpened(id=episode.id, messages=messages, key=key, horizon=horizon, policy_version=version,
                         base_url=f"{str(request.base_url).rstrip('/')}/episodes/{episode.id}/v1")


@router.get("/episodes/{episode_id}", dependencies=[own_episode])
async def get_episode(episode_id: str, parts: Parts) -> EpisodeView:
    """Read the whole transcript."""
    return await asyncio.to_thread(read_episode, parts.database, episode_id)


@router.get("/episodes/{episode_id}/trained", dependencies=[own_episode])
async def trained(episode_id: str, parts: Parts) -> EpisodeTrained:
    """Which runs and policy versions were trained on an episode."""
    return await parts.privacy.trained(episode_id)


@router.delete("/episodes/{episode_id}", status_code=204, dependencies=[needs("admin")])
async def erase_episode(episode_id: str, parts: Parts) -> None:
    """Erase an episode with everything recorded of it."""
    await parts.privacy.erase(episode_id)


@router.post("/episodes/{episode_id}/steps", dependencies=[own_episode])
async def step(episode_id: str, body: StepRequest, parts: Parts) -> StepResult:
    """Act in the episode's environment."""
    return await parts.sessions.step(await parts.episodes.get(episode_id), body.action)


@router.post("/episodes/{episode_id}/rewards", status_code=201, dependencies=[own_episode])
async def reward(episode_id: str, body: RewardRequest, parts: Parts) -> RewardView:
    """Record a late or partial reward."""
    return await parts.episodes.reward(episode_id, body)


@router.post("/episodes/{episode_id}/close", dependencies=[own_episode])
async def close_episode(episode_id: str, body: EpisodeClose, parts: Parts) -> EpisodeView:
    """End an episode."""
    await parts.episodes.end(await parts.episodes.get(episode_id), "closed", reason=body.reason)
    return await get_episode(episode_id, parts)
