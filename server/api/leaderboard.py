"""The leaderboard over REST: measure a policy, or an endpoint that the caller plays, and compare."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from server.api.access.authentication import needs
from server.api.access.json_route import JsonRoute
from server.api.services import service
from server.errors import BadRequest
from server.training.judging.leaderboard import Leaderboard
from server.versions.residency import Residency
from upturn.wire import LeaderboardEnd, LeaderboardEntry, LeaderboardRequest, LeaderboardView

LeaderboardOf = Annotated[Leaderboard, service(Leaderboard)]
ResidencyOf = Annotated[Residency, service(Residency)]

router = APIRouter(prefix="/v1/leaderboard", tags=["leaderboard"], dependencies=[needs("admin")], route_class=JsonRoute)


@router.post("", status_code=201)
async def add_entry(body: LeaderboardRequest, leaderboard: LeaderboardOf, residency: ResidencyOf) -> LeaderboardEntry:
    """Add a model: a policy, which is played at once, or an endpoint, which the caller plays."""
    await residency.load_on_demand(body.policy)
    return await leaderboard.begin(body)


@router.get("")
async def get_leaderboard(
    leaderboard: LeaderboardOf, environment: Annotated[str | None, Query(max_length=200)] = None
) -> LeaderboardView:
    """List the newest 100 entries, newest first, each with the figures of its recorded episodes."""
    if "\0" in (environment or ""):
        raise BadRequest("an environment's name contains no NUL", param="environment")
    return await leaderboard.view(environment)


@router.get("/{entry_id}")
async def get_entry(entry_id: str, leaderboard: LeaderboardOf) -> LeaderboardEntry:
    """Return an entry."""
    return await leaderboard.entry(entry_id)


@router.post("/{entry_id}/end")
async def end_entry(entry_id: str, body: LeaderboardEnd, leaderboard: LeaderboardOf) -> LeaderboardEntry:
    """End an endpoint's entry, once all its episodes have ended."""
    return await leaderboard.end(entry_id, body)


@router.delete("/{entry_id}", status_code=204)
async def delete_entry(entry_id: str, leaderboard: LeaderboardOf) -> None:
    """Remove an entry; its episodes stay in the record."""
    await leaderboard.delete(entry_id)
