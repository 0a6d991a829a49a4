"""Runs: all of them, one with its config, and what pauses, resumes, or cancels one. `start_run.py` starts them."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from fastapi import Query, Response

from server.dashboard.forms import FormOf
from server.dashboard.frame import page, see_other
from server.dashboard.inside import ViewerOf
from server.dashboard.problems import pages_router
from server.dashboard.toml_text import write_run
from upturn.wire import CampaignList, CampaignView, PlayView, PromotionList, RunList, RunView

LISTED = 100
"""Runs on a page."""

router = pages_router()


@router.get("/runs")
async def runs(
    viewer: ViewerOf,
    campaign: Annotated[str, Query(max_length=100)] = "",
    skip: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
) -> Response:
    """Show all runs, the newest first, and the campaigns that they continue."""
    listed, campaigns = await asyncio.gather(
        viewer.read(RunList, "/v1/runs"), viewer.read(CampaignList, "/v1/campaigns")
    )
    of_campaign = [run for run in listed.data if not campaign or run.config.campaign == campaign]
    nights = await viewer.maybe(CampaignView, f"/v1/campaigns/{campaign}") if campaign else None
    return page(
        viewer,
        "runs/list.html",
        title="Runs",
        runs=of_campaign[skip : skip + LISTED],
        total=len(of_campaign),
        skip=skip,
        listed=LISTED,
        campaigns=campaigns.data,
        campaign=campaign,
        nights=nights,
    )


@router.get("/runs/{run_id}")
async def run(run_id: str, viewer: ViewerOf) -> Response:
    """Show one run."""
    view = await viewer.read(RunView, f"/v1/runs/{run_id}")
    play = await viewer.maybe(PlayView, f"/v1/plays/{view.play_id}") if view.play_id else None
    ledger = await viewer.maybe(PromotionList, "/v1/promotions", {"limit": 200})
    decisions = [row for row in (ledger.data if ledger else []) if row.run_id == view.id]
    return page(
        viewer,
        "runs/one.html",
        title=f"Run {view.id}",
        run=view,
        play=play,
        toml=write_run(view.config),
        decisions=decisions,
    )


@router.post("/runs/{run_id}/{change}")
async def change(run_id: str, change: Literal["pause", "resume", "cancel"], viewer: ViewerOf, form: FormOf) -> Response:
    """Pause, resume, or cancel a run."""
    await viewer.post(f"/v1/runs/{run_id}/{change}")
    return see_other(viewer.request, f"runs/{run_id}")
