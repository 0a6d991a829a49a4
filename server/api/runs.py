"""Training runs and their batches over REST: users request runs, the learner claims them and leases batches."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import Field

from server.api.access.authentication import needs
from server.api.access.json_route import JsonRoute
from server.api.services import service
from server.errors import BadRequest
from server.training.batches import Batches
from server.training.run_steps import LearnerSteps
from server.training.runs import Runs
from server.training.scheduling.schedule import Schedule
from server.training.scheduling.settings import ScheduleSettings
from server.versions.serving import Serving
from upturn.wire import (
    BatchAck,
    BatchRequest,
    BatchView,
    Message,
    RunClaim,
    RunEnd,
    RunList,
    RunRelease,
    RunRequest,
    RunSteps,
    RunView,
)

BatchesOf = Annotated[Batches, service(Batches)]
RunsOf = Annotated[Runs, service(Runs)]
ServingOf = Annotated[Serving, service(Serving)]
StepsOf = Annotated[LearnerSteps, service(LearnerSteps)]
ScheduleOf = Annotated[Schedule, service(Schedule)]
SettingsOf = Annotated[ScheduleSettings, service(ScheduleSettings)]

router = APIRouter(prefix="/v1", tags=["runs"], route_class=JsonRoute)


class Heartbeat(Message):
    """A learner's sign of life."""

    learner: str = Field(min_length=1, max_length=200)


@router.post("/runs", status_code=201, dependencies=[needs("admin")])
async def create_run(body: RunRequest, schedule: ScheduleOf, settings: SettingsOf) -> RunView:
    """Request a run with the given configuration, or with the configured one."""
    config = body.config or settings.run
    if config is None:
        raise BadRequest("this server has no configured run (schedule.run): send a config", param="config")
    return await schedule.request(config, body.trigger)


@router.get("/runs", dependencies=[needs("learner")])
async def list_runs(runs: RunsOf) -> RunList:
    """List all runs, newest first."""
    return RunList(data=await runs.views())


@router.post(
    "/runs/claim",
    response_model=RunView,
    responses={204: {"description": "No run is due"}},
    dependencies=[needs("learner")],
)
async def claim_run(body: RunClaim, runs: RunsOf, serving: ServingOf) -> RunView | Response:
    """Claim a run for a learner; 204 if no run is due."""
    if body.work_dir is not None:
        await asyncio.to_thread(serving.check_work_dir, body.work_dir)
    return await runs.claim(body) or Response(status_code=204)


@router.post("/runs/release", status_code=204, dependencies=[needs("learner")])
async def release_run(body: RunRelease, runs: RunsOf) -> None:
    """Give back the run of a learner that stops: another learner can claim it at once."""
    await runs.release(body.learner)


@router.get("/runs/{run_id}", dependencies=[needs("learner")])
async def get_run(run_id: str, runs: RunsOf) -> RunView:
    """Return one run with its steps."""
    return await runs.view(run_id)


@router.get("/runs/{run_id}/steps", dependencies=[needs("learner")])
async def get_run_steps(run_id: str, steps: StepsOf, first: Annotated[int, Query(ge=0, lt=2**31)] = 0) -> RunSteps:
    """Return the figures of a run's finished learner steps, from the step `first` on."""
    return await steps.read(run_id, first)


@router.post("/runs/{run_id}/cancel", dependencies=[needs("admin")])
async def cancel_run(run_id: str, runs: RunsOf) -> RunView:
    """Cancel a run."""
    return await runs.cancel(run_id)


@router.post("/runs/{run_id}/pause", dependencies=[needs("admin")])
async def pause_run(run_id: str, runs: RunsOf) -> RunView:
    """Pause a run: its learner returns its batch and stops."""
    return await runs.pause(run_id)


@router.post("/runs/{run_id}/resume", dependencies=[needs("admin")])
async def resume_run(run_id: str, schedule: ScheduleOf) -> RunView:
    """Resume a paused run at its step, once no other run is running."""
    return await schedule.resume(run_id)


@router.post("/runs/{run_id}/heartbeat", status_code=204, dependencies=[needs("learner")])
async def heartbeat(run_id: str, body: Heartbeat, runs: RunsOf) -> None:
    """Renew a learner's lease of its run."""
    await runs.heartbeat(run_id, body.learner)


@router.post("/runs/{run_id}/end", dependencies=[needs("learner")])
async def end_run(run_id: str, body: RunEnd, runs: RunsOf) -> RunView:
    """Report how a run ended."""
    return await runs.end(run_id, body)


@router.post("/batches", dependencies=[needs("learner")])
async def lease_batch(body: BatchRequest, batches: BatchesOf) -> BatchView:
    """Lease the batch of one learner step; in state `gathering`, ask again later."""
    return await batches.lease(body)


@router.post("/batches/{batch_id}/ack", status_code=204, dependencies=[needs("learner")])
async def acknowledge_batch(batch_id: str, body: BatchAck, batches: BatchesOf) -> None:
    """Report that a batch was trained, or return it untrained."""
    await batches.acknowledge(batch_id, body)
