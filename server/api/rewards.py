"""Rewards over REST: reward an episode, set the rules of sources, and list scorers."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path

from server.api.access.authentication import CallerOf, CallersOf, may_reward, needs
from server.api.access.callers import Caller
from server.api.access.json_route import JsonRoute
from server.api.services import service
from server.errors import Forbidden
from server.feedback.scorers import Scorers
from server.recording.episodes import Episodes
from server.recording.given_rewards import episode_of
from server.recording.people.opinions import Opinions
from server.rewards.sources import RewardSources
from server.store.database import Database
from server.training.scheduling.schedule import Schedule
from upturn.wire import (
    FeedbackRequest,
    FeedbackView,
    RewardRequest,
    RewardRule,
    RewardSourceList,
    RewardSourceView,
    RewardView,
    ScorerList,
    TurnReward,
)

DatabaseOf = Annotated[Database, service(Database)]
EpisodesOf = Annotated[Episodes, service(Episodes)]
OpinionsOf = Annotated[Opinions, service(Opinions)]
ScheduleOf = Annotated[Schedule, service(Schedule)]
ScorersOf = Annotated[Scorers, service(Scorers)]
SourcesOf = Annotated[RewardSources, service(RewardSources)]
Source = Annotated[str, Path(min_length=1, max_length=100)]

router = APIRouter(prefix="/v1", route_class=JsonRoute)


@router.post("/episodes/{episode_id}/rewards", status_code=201, tags=["episodes"], dependencies=[may_reward])
async def reward(
    episode_id: str,
    body: RewardRequest,
    episodes: EpisodesOf,
    scorers: ScorersOf,
    schedule: ScheduleOf,
    caller: CallerOf,
) -> RewardView:
    """Record a late or partial reward."""
    return await _record(episode_id, body, episodes, scorers, schedule, caller)


@router.post("/episodes/{episode_id}/feedback", status_code=201, tags=["episodes"], dependencies=[may_reward])
async def give_feedback(
    episode_id: str, body: FeedbackRequest, opinions: OpinionsOf, scorers: ScorersOf, caller: CallerOf
) -> FeedbackView:
    """Record a thumb, a comment, or what a turn should have answered."""
    _check_source(RewardRequest(value=0.0, source=body.source), scorers, caller)
    return await opinions.record(episode_id, body)


@router.post("/rewards", status_code=201, tags=["episodes"], dependencies=[needs("reward")])
async def reward_by_id(
    body: TurnReward,
    database: DatabaseOf,
    callers: CallersOf,
    episodes: EpisodesOf,
    scorers: ScorersOf,
    schedule: ScheduleOf,
    caller: CallerOf,
) -> RewardView:
    """Reward the episode of a completion, response, message, tool call or turn: frameworks often show only its id."""
    episode_id = await asyncio.to_thread(episode_of, database, body.id)
    await callers.check_rewards(caller, episode_id)
    request = RewardRequest.model_validate(body.model_dump(exclude={"id"}))
    recorded = await _record(episode_id, request, episodes, scorers, schedule, caller)
    return recorded.model_copy(update={"episode_id": episode_id})


async def _record(
    episode_id: str, body: RewardRequest, episodes: Episodes, scorers: Scorers, schedule: Schedule, caller: Caller
) -> RewardView:
    _check_source(body, scorers, caller)
    recorded = await episodes.reward(episode_id, body)
    schedule.episode_scored(episode_id)
    return recorded


def _check_source(body: RewardRequest, scorers: Scorers, caller: Caller) -> None:
    """Refuse a source that the caller may not reward as."""
    if caller.reward_sources is not None and body.source not in caller.reward_sources:
        allowed = ", ".join(map(repr, sorted(caller.reward_sources)))
        raise Forbidden(f"this key may reward as {allowed} only", param="source", code="source_not_allowed")
    scorers.check_not_ours(body)


@router.get("/reward-sources", tags=["feedback"], dependencies=[needs("admin")])
async def list_reward_sources(sources: SourcesOf) -> RewardSourceList:
    """List the sources of rewards with their rules and totals."""
    return RewardSourceList(data=await sources.views())


@router.put("/reward-sources/{name:path}", tags=["feedback"], dependencies=[needs("admin")])
async def set_reward_source(name: Source, body: RewardRule, sources: SourcesOf, caller: CallerOf) -> RewardSourceView:
    """Weight, cap, block or unblock a source. Omitted fields keep their values. Also applies to existing rewards."""
    return await sources.set(name, body, caller.name)


@router.delete("/reward-sources/{name:path}", status_code=204, tags=["feedback"], dependencies=[needs("admin")])
async def delete_reward_source(name: Source, sources: SourcesOf, caller: CallerOf) -> None:
    """Remove a rule that was set by API; the settings' rule applies again."""
    await sources.remove(name, caller.name)


@router.get("/scorers", tags=["feedback"], dependencies=[needs("admin")])
async def list_scorers(scorers: ScorersOf) -> ScorerList:
    """List reward functions and judges, with their counts of scores and errors."""
    return ScorerList(data=await scorers.views())
