"""Environments and their tasks over REST."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query

from env_adapters import REGISTRY, environment_spec
from env_adapters.hosting.messages import text_of
from env_adapters.protocol import EnvironmentFailure, UnknownTask
from server.api.access.authentication import needs
from server.api.services import service
from server.environments.instances import find_environment
from server.environments.open_environments import OpenEnvironments
from server.errors import NotFound
from upturn.wire import EnvironmentList, EnvironmentView, TaskList

EnvironmentsOf = Annotated[OpenEnvironments, service(OpenEnvironments)]

router = APIRouter(prefix="/v1", tags=["episodes"])


@router.get("/environments", dependencies=[needs("agent")])
async def list_environments(environments: EnvironmentsOf) -> EnvironmentList:
    """List the environments and the state of their episodes."""
    health = environments.health
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
    """List the tasks of one split, one page at a time."""
    environment = find_environment(name)
    try:
        tasks = environment.tasks(split)
    except UnknownTask as error:
        raise NotFound(str(error.args[0]), param="split", code="split_not_found") from error
    return TaskList(environment=name, split=split, total=len(tasks), tasks=tasks[offset : offset + limit])


def _described(name: str) -> EnvironmentView:
    """Describe an environment, or give the reason why it cannot be loaded. May read files."""
    try:
        environment = environment_spec(name)
        return EnvironmentView(
            name=name,
            description=environment.description,
            splits={s: len(environment.tasks(s)) for s in environment.splits()},
            isolation=environment.isolation,
            tools=environment.tools,
            missing=environment.missing(),
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
