"""Feedback: the sources of rewards and their rules, and how the scorers do. Giving a reward is `episodes.py`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from server.api.access.authentication import CallerOf
from server.api.state import Parts
from upturn.wire import RewardRule, RewardSourceList, RewardSourceView, ScorerList

Source = Annotated[str, Path(min_length=1, max_length=100)]

router = APIRouter(prefix="/v1", tags=["feedback"])


@router.get("/reward-sources")
async def list_reward_sources(parts: Parts) -> RewardSourceList:
    """Who gives rewards, how many, and how they count."""
    return RewardSourceList(data=await parts.reward_sources.views())


@router.put("/reward-sources/{name:path}")
async def set_reward_source(name: Source, body: RewardRule, parts: Parts, caller: CallerOf) -> RewardSourceView:
    """Weigh, cap, block or unblock a source; what is left out stays as it is. Its rewards of before count so too."""
    return await parts.reward_sources.set(name, body, caller.name)


@router.delete("/reward-sources/{name:path}", status_code=204)
async def delete_reward_source(name: Source, parts: Parts, caller: CallerOf) -> None:
    """Take away a rule that was set here; that of the settings holds again."""
    await parts.reward_sources.remove(name, caller.name)


@router.get("/scorers")
async def list_scorers(parts: Parts) -> ScorerList:
    """Reward functions and judges, and how they have done."""
    return ScorerList(data=await parts.scorers.views())
