"""AgentGym's protocol at `/agentgym/{environment}/`, as its TextCraft, BabyAI, SciWorld and SearchQA servers speak it.

AgentGym's clients of these four work unchanged, for every environment. `data_idx` counts through the tasks of `train`,
then of `test` (`GET /v1/environments/{name}/tasks` lists both), with seed 0; after the last task it continues with seed
1, and so on. As on AgentGym's servers, a wrong id, an ended episode and a task that cannot begin are answered with
status 200 and `{"error": ...}`. `score` is on the scale of AgentGym's servers: ScienceWorld's is 0 to 100, or -100
after a wrong focus, and any other is the sum of rewards. Three things differ: a task must begin (`reset`) before the
first step, a reset also returns the environment's `instructions`, and `create` returns a `warning` if more clients
exist than can play at once.

SearchQA's dialect is recognized by its fields. `create` gets only an `id`, which is ignored, and answers with the new
number alone. Then `env_idx` names the instance and `id` the task, and a reset answers with one text. Errors have their
own status codes, since these clients look at nothing else.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import from_json

from server.api.access.authentication import CallerOf, needs
from server.api.served.guests import GuestsOf, tasks_of
from server.environments.instances import find_environment
from server.errors import BadRequest, Conflict, EnvironmentFailed, NotFound, UpturnError

router = APIRouter(prefix="/agentgym/{environment:path}", include_in_schema=False, dependencies=[needs("agent")])

STATUS_200 = (BadRequest, Conflict, EnvironmentFailed, NotFound)
"""Errors that AgentGym's servers answer with status 200. Key, limit and database errors keep their status codes."""


class ById(BaseModel):
    """Names an instance. Other fields that AgentGym's clients send are ignored."""

    model_config = ConfigDict(strict=True)

    id: int
    searchqa: bool = False
    """Whether the body is in SearchQA's dialect."""

    @model_validator(mode="before")
    @classmethod
    def _translated(cls, body: Any) -> Any:
        """Translate SearchQA's fields."""
        if not isinstance(body, dict) or "env_idx" not in body:
            return {**body, "searchqa": False} if isinstance(body, dict) else body
        index = body.get("id")
        return {**body, "id": body["env_idx"], "data_idx": 0 if index is None else index, "searchqa": True}


class ResetBody(ById):
    """Begins a task."""

    data_idx: int = Field(default=0, ge=0, lt=2**40)


class StepBody(ById):
    """Takes a step."""

    action: str = Field(max_length=1_000_000)


@router.post("/create", response_model=None)
async def create(environment: str, request: Request, guests: GuestsOf, caller: CallerOf) -> dict[str, Any] | int:
    """Return a new id; no task begins yet. A body is ignored, except for SearchQA's."""
    await guests.environment(environment)
    number = next(guests.numbers)
    await guests.add(f"agentgym/{number}", guests.new(environment, caller.key_hash, "agentgym"))
    warning = guests.too_many(environment)
    if await _is_searchqa(request):
        return number
    made = {"id": number, "observation": "", "reward": 0.0, "score": 0.0, "done": False}
    return made if warning is None else {**made, "warning": warning}


async def _is_searchqa(request: Request) -> bool:
    """Return whether a `create` comes from SearchQA's client."""
    try:
        body = from_json(await request.body())
    except ValueError:
        return False
    return isinstance(body, dict) and set(body) == {"id"}


@router.post("/reset", response_model=None)
async def reset(environment: str, body: ResetBody, guests: GuestsOf, caller: CallerOf) -> dict[str, Any] | str:
    """Begin a task."""
    guest = guests.find(f"agentgym/{body.id}", environment, caller.key_hash)
    if guest is None:
        return _refused(body, NotFound(_no_such(body.id)))
    try:
        tasks = await tasks_of(environment, "train", "test")
        round_, index = divmod(body.data_idx, len(tasks))
        async with guest.lock:
            await guest.begin(tasks[index], round_ % 2**31)
            if body.searchqa:
                return "\n\n".join(filter(None, (guest.instructions, guest.observation)))
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
    except STATUS_200 as error:
        return _refused(body, error)


@router.post("/step")
async def step(environment: str, body: StepBody, guests: GuestsOf, caller: CallerOf) -> dict[str, Any]:
    """Take a step."""
    guest = guests.find(f"agentgym/{body.id}", environment, caller.key_hash)
    if guest is None:
        return _refused(body, NotFound(_no_such(body.id)))
    try:
        async with guest.lock:
            if guest.done:
                raise Conflict(f"The task with environment {body.id} has finished.")
            result = await guest.act(body.action)
            return {
                "observation": result.observation,
                "reward": result.reward,
                "score": guest.score if result.raw_score is None else result.raw_score,
                "done": guest.done,
            }
    except STATUS_200 as error:
        return _refused(body, error)


@router.get("/observation")
async def observation(
    environment: str, guests: GuestsOf, caller: CallerOf, id: int | None = None, env_idx: int | None = None
) -> Any:
    """Return the latest observation of the instance `id`, which SearchQA's clients call `env_idx`."""
    number = id if env_idx is None else env_idx
    if number is None:
        raise BadRequest("the query needs an id", param="id")
    guest = guests.find(f"agentgym/{number}", environment, caller.key_hash)
    if guest is None and env_idx is not None:
        raise NotFound(_no_such(env_idx))
    return guest.observation if guest else {"error": _no_such(number)}


@router.get("/available_actions")
async def available_actions(environment: str, id: int, guests: GuestsOf, caller: CallerOf) -> dict[str, Any]:
    """Return the names of the environment's tools, which are its kinds of action; empty for one without tools."""
    if guests.find(f"agentgym/{id}", environment, caller.key_hash) is None:
        return {"error": _no_such(id)}
    return {"available_actions": [tool["function"]["name"] for tool in find_environment(environment).tools]}


@router.post("/close")
async def close(environment: str, body: ById, guests: GuestsOf, caller: CallerOf) -> bool:
    """Close an instance; false if it does not exist."""
    guest = guests.find(f"agentgym/{body.id}", environment, caller.key_hash)
    if guest is None:
        return False
    guests.remove(f"agentgym/{body.id}")
    async with guest.lock:
        await guest.leave("its client closed it")
    return True


@router.get("/")
async def hello(environment: str, guests: GuestsOf) -> str:
    """Return a text that names the environment."""
    await guests.environment(environment)
    return f"This is environment {environment}."


def _refused(body: ById, error: UpturnError) -> dict[str, Any]:
    """Return an error as AgentGym's servers do; for SearchQA's clients, raise it."""
    if body.searchqa:
        raise error
    return {"error": error.message}


def _no_such(id: int) -> str:
    return f"The id {id} is not valid."
