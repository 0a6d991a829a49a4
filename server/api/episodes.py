"""Episodes over REST: open, reward, close, read, erase; and the list of environments. Acting is `steps.py`."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from env_adapters import REGISTRY, environment_spec
from env_adapters.hosting.messages import text_of
from env_adapters.protocol import EnvironmentFailure, Reset, UnknownTask
from server.api import steps
from server.api.access.authentication import CallerOf, NoTrain, needs, own_episode
from server.api.state import Parts
from server.environments.instances import find_environment
from server.errors import BadRequest, Conflict, NotFound
from server.recording.episode import Episode
from server.recording.transcript import read_episode
from server.store.database import new_id
from upturn.wire import (
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
    TaskList,
)

router = APIRouter(prefix="/v1", tags=["episodes"])
router.include_router(steps.router)


@router.get("/environments", dependencies=[needs("agent")])
async def list_environments(parts: Parts) -> EnvironmentList:
    """What can be played, and how it has been doing."""
    health = parts.environments.health
    shown = sorted({*REGISTRY.names(), *health.names()})
    described = await asyncio.to_thread(lambda: [_described(name) for name in shown])
    return EnvironmentList(
        kinds=REGISTRY.parametric(),
        data=[
            view.model_copy(update={"open": its.open, "started": its.started, "errors": dict(its.errors)})
            for view in described
            for its in [health.of(view.name)]
        ],
    )


@router.get("/environments/{name:path}/tasks", dependencies=[needs("agent")])
def list_tasks(
    name: str,
    split: str = "train",
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    offset: Annotated[int, Query(ge=0, lt=2**31)] = 0,
) -> TaskList:
    """The tasks of one split, a page at a time."""
    found = find_environment(name)
    try:
        tasks = found.tasks(split)
    except UnknownTask as error:
        raise NotFound(str(error.args[0]), param="split", code="split_not_found") from error
    return TaskList(environment=name, split=split, total=len(tasks), tasks=tasks[offset : offset + limit])


@router.post("/episodes", status_code=201, dependencies=[needs("agent")])
async def open_episode(
    body: EpisodeOpen, request: Request, parts: Parts, caller: CallerOf, no_train: NoTrain
) -> EpisodeOpened:
    """Open an episode of an environment, or of a live agent."""
    if no_train:
        body = body.model_copy(update={"trainable": False})
    await parts.residency.load_on_demand(body.policy)
    episode_id = new_id("ep")
    version = parts.pointers.for_new_episode(
        body.policy, parts.engine, episode_id=episode_id, owner_hash=caller.key_hash
    )
    horizon = body.horizon or parts.settings.default_horizon
    if body.environment is None:
        if body.task is not None:
            raise BadRequest("a task needs an environment", param="task")
        episode, key = await parts.episodes.open(
            body, policy_version=version, horizon=horizon, owner_hash=caller.key_hash, episode_id=episode_id
        )
        await episode.opened()
        return _opened(request, episode, key)
    held, reset = await parts.environments.prepare(body.environment, body.task, body.seed)
    try:
        if await request.is_disconnected():
            raise Conflict("the caller has gone away", code="disconnected")
        episode, key = await parts.episodes.open(
            body, policy_version=version, horizon=horizon, owner_hash=caller.key_hash, episode_id=episode_id
        )
    except BaseException:
        parts.environments.discard(held)
        raise
    parts.environments.attach(episode, held)
    await episode.opened()
    return _opened(request, episode, key, reset, (await parts.environments.instances.spec(body.environment)).tools)


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


@router.post("/episodes/{episode_id}/rewards", status_code=201, dependencies=[own_episode])
async def reward(episode_id: str, body: RewardRequest, parts: Parts) -> RewardView:
    """Record a late or partial reward."""
    parts.scorers.check_not_ours(body)
    recorded = await parts.episodes.reward(episode_id, body)
    parts.schedule.episode_scored(episode_id)
    return recorded


@router.post("/episodes/{episode_id}/close", dependencies=[own_episode])
async def close_episode(episode_id: str, body: EpisodeClose, parts: Parts) -> EpisodeView:
    """End an episode."""
    await parts.episodes.end(await parts.episodes.get(episode_id), "closed", reason=body.reason)
    return await get_episode(episode_id, parts)


def _opened(
    request: Request, episode: Episode, key: str, reset: Reset | None = None, tools: list[dict[str, Any]] | None = None
) -> EpisodeOpened:
    return EpisodeOpened(
        id=episode.id,
        messages=[ChatMessage.model_validate(m) for m in reset.messages] if reset else [],
        tools=tools or [],
        key=key,
        horizon=episode.horizon,
        policy_version=episode.policy_version,
        base_url=f"{str(request.base_url).rstrip('/')}/episodes/{episode.id}/v1",
    )


def _described(name: str) -> EnvironmentView:
    """Return what an environment is. It may read files; one that cannot be loaded is shown with the reason."""
    try:
        found = environment_spec(name)
        return EnvironmentView(
            name=name,
            description=found.description,
            splits={s: len(found.tasks(s)) for s in found.splits()},
            isolation=found.isolation,
            tools=found.tools,
            missing=found.missing(),
            open=0,
            started=0,
            errors={},
        )
    except (EnvironmentFailure, ImportError, UnknownTask) as error:
        return EnvironmentView(
            name=name,
            description="",
            splits={},
            isolation="",
            tools=[],
            open=0,
            started=0,
            missing=f"{type(error).__name__}: {text_of(error)}",
            errors={},
        )
