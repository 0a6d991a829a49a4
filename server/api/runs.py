"""Training runs and their batches: what users ask for, and what the learner leases."""

from __future__ import annotations

from fastapi import APIRouter, Response
from pydantic import Field

from server.api.access.authentication import needs
from server.api.state import Parts
from server.errors import BadRequest
from upturn.wire import (
    BatchAck,
    BatchRequest,
    BatchView,
    Message,
    RunClaim,
    RunEnd,
    RunList,
    RunRequest,
    RunView,
)

router = APIRouter(prefix="/v1", tags=["runs"])


class Heartbeat(Message):
    """A learner says that it lives."""

    learner: str = Field(min_length=1, max_length=200)


@router.post("/runs", status_code=201, dependencies=[needs("admin")])
async def create_run(body: RunRequest, parts: Parts) -> RunView:
    """Ask for a run: the given one, or the configured one."""
    config = body.config or parts.settings.schedule.run
    if config is None:
        raise BadRequest("this server has no configured run (schedule.run): send a config", param="config")
    return await parts.schedule.request(config, body.trigger)


@router.get("/runs", dependencies=[needs("learner")])
async def list_runs(parts: Parts) -> RunList:
    """All runs, newest first."""
    return RunList(data=await parts.runs.views())


@router.post(
    "/runs/claim",
    response_model=RunView,
    responses={204: {"description": "No run is due"}},
    dependencies=[needs("learner")],
)
async def claim_run(body: RunClaim, parts: Parts) -> RunView | Response:
    """A learner takes a run; 204 where none is due."""
    return await parts.runs.claim(body) or Response(status_code=204)


@router.get("/runs/{run_id}", dependencies=[needs("learner")])
async def get_run(run_id: str, parts: Parts) -> RunView:
    """One run with its steps."""
    return await parts.runs.view(run_id)


@router.post("/runs/{run_id}/cancel", dependencies=[needs("admin")])
async def cancel_run(run_id: str, parts: Parts) -> RunView:
    """Cancel a run."""
    return await parts.runs.cancel(run_id)


@router.post("/runs/{run_id}/pause", dependencies=[needs("admin")])
async def pause_run(run_id: str, parts: Parts) -> RunView:
    """Pause a run: its learner gives its batch back and stops."""
    return await parts.runs.pause(run_id)


@router.post("/runs/{run_id}/resume", dependencies=[needs("admin")])
async def resume_run(run_id: str, parts: Parts) -> RunView:
    """Let a paused run go on at its step, as soon as no other runs."""
    return await parts.schedule.resume(run_id)


@router.post("/runs/{run_id}/heartbeat", status_code=204, dependencies=[needs("learner")])
async def heartbeat(run_id: str, body: Heartbeat, parts: Parts) -> None:
    """Renew a learner's lease."""
    await parts.runs.heartbeat(run_id, body.learner)


@router.post("/runs/{run_id}/end", dependencies=[needs("learner")])
async def end_run(run_id: str, body: RunEnd, parts: Parts) -> RunView:
    """The learner reports how its run ended."""
    return await parts.runs.end(run_id, body)


@router.post("/batches", dependencies=[needs("learner")])
async def lease_batch(body: BatchRequest, parts: Parts) -> BatchView:
    """Lease the batch of one learner step; `gathering` means: ask again."""
    return await parts.batches.lease(body)


@router.post("/batches/{batch_id}/ack", status_code=204, dependencies=[needs("learner")])
async def acknowledge_batch(batch_id: str, body: BatchAck, parts: Parts) -> None:
    """A batch was trained, or is given back."""
    await parts.batches.acknowledge(batch_id, body)
