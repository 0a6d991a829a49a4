"""AgentGym's protocol at `/agentgym/{environment}/`, in the dialect of its TextCraft, BabyAI and SciWorld servers.

AgentGym's own clients of these three work unchanged, for every environment. `data_idx` is the index in our tasks,
those of `train` first and then those of `test` (`GET /v1/environments/{name}/tasks` lists both), with seed 0; after
the last one it goes on with seed 1, and so on. Like theirs, a wrong id, an episode that has ended and a task that
cannot begin are answered with status 200 and `{"error": ...}`. Three things differ: a task has to begin (`reset`)
before the first step, `score` is the sum of our rewards, and a reset also tells the environment's `instructions`.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from server.api.access.authentication import CallerOf, needs
from server.api.served.guests import Guest, guests_of, tasks_of
from server.api.state import Parts
from server.environments.instances import find_environment
from server.errors import BadRequest, Conflict, EnvironmentFailed, NotFound

router = APIRouter(prefix="/agentgym/{environment:path}", include_in_schema=False, dependencies=[needs("agent")])

SAID = (BadRequest, Conflict, EnvironmentFailed, NotFound)
"""Errors that AgentGym's servers answer with status 200; keys, limits and a database that is away have their own."""


class ById(BaseModel):
    """Names an instance. What AgentGym's clients send beyond it is ignored."""

    model_config = ConfigDict(strict=True)

    id: int


class ResetBody(ById):
    """Begins a task."""

    data_idx: int = Field(default=0, ge=0, lt=2**40)


class StepBody(ById):
    """Acts."""

    action: str = Field(max_length=1_000_000)


@router.post("/create")
async def create(environment: str, request: Request, parts: Parts, caller: CallerOf) -> dict[str, Any]:
    """Give an id; nothing begins yet. A body is allowed and ignored."""
    await parts.environments.instances.spec(environment)
    guests = guests_of(request.app)
    number = next(guests.numbers)
    await guests.add(f"agentgym/{number}", Guest(parts, environment, caller.key_hash, "agentgym"))
    return {"id": number, "observation": "", "reward": 0.0, "score": 0.0, "done": False}


@router.post("/reset")
async def reset(environment: str, body: ResetBody, request: Request, caller: CallerOf) -> dict[str, Any]:
    """Begin a task."""
    guest = guests_of(request.app).find(f"agentgym/{body.id}", environment, caller.key_hash)
    if guest is None:
        return _no_such(body.id)
    try:
        tasks = await tasks_of(environment, "train", "test")
        round_, index = divmod(body.data_idx, len(tasks))
        async with guest.lock:
            await guest.begin(tasks[index], round_ % 2**31)
            return {
                "id": body.id,
                "data_idx": body.data_idx,
                "task_name": tasks[index],
                "task_description": "",
                "instructions": guest.instructions,
                "observation": guest.observation,
                "reward": 0.0,
                "score": 0.0,
                "deleted": False,
                "done": False,
            }
    except SAID as error:
        return {"error": error.message}


@router.post("/step")
async def step(environment: str, body: StepBody, request: Request, caller: CallerOf) -> dict[str, Any]:
    """Act."""
    guest = guests_of(request.app).find(f"agentgym/{body.id}", environment, caller.key_hash)
    if guest is None:
        return _no_such(body.id)
    try:
        async with guest.lock:
            if guest.done:
                return {"error": f"The task with environment {body.id} has finished."}
            result = await guest.act(body.action)
            return {
                "observation": result.observation,
                "reward": result.reward,
                "score": guest.score,
                "done": guest.done,
            }
    except SAID as error:
        return {"error": error.message}


@router.get("/observation")
async def observation(environment: str, id: int, request: Request, caller: CallerOf) -> Any:
    """Tell the newest observation once more."""
    guest = guests_of(request.app).find(f"agentgym/{id}", environment, caller.key_hash)
    return guest.observation if guest else _no_such(id)


@router.get("/available_actions")
async def available_actions(environment: str, id: int, request: Request, caller: CallerOf) -> dict[str, Any]:
    """Tell the names of the environment's tools: the kinds of action that there are; empty where it has none."""
    if guests_of(request.app).find(f"agentgym/{id}", environment, caller.key_hash) is None:
        return _no_such(id)
    return {"available_actions": [tool["function"]["name"] for tool in find_environment(environment).tools]}


@router.post("/close")
async def close(environment: str, body: ById, request: Request, caller: CallerOf) -> bool:
    """Close an instance; false where there is none."""
    guests = guests_of(request.app)
    guest = guests.find(f"agentgym/{body.id}", environment, caller.key_hash)
    if guest is None:
        return False
    guests.remove(f"agentgym/{body.id}")
    async with guest.lock:
        await guest.leave("its client closed it")
    return True


@router.get("/")
async def hello(environment: str, parts: Parts) -> str:
    """Say which environment this is."""
    await parts.environments.instances.spec(environment)
    return f"This is environment {environment}."


def _no_such(id: int) -> dict[str, Any]:
    return {"error": f"The id {id} is not valid."}
