"""Home: is it well, what is it doing, is it getting better."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

from fastapi import Request, Response

from server.api.access.draining import Draining
from server.api.services import service
from server.dashboard.figures.days import Days, days
from server.dashboard.frame import page, part
from server.dashboard.inside import Refused, Viewer, ViewerOf
from server.dashboard.live import stream
from server.dashboard.problems import pages_router
from upturn.wire import EpisodeList, PromotionList, RecentTurns, RunList, StatsView, StatusView

DrainingOf = Annotated[Draining, service(Draining)]
TOP = "./"
"""The way from the page to `/ui/`."""
SHOWN = 6
"""Rows of each list."""
DAY_S, DAYS = 86_400.0, 14
"""The curves have one point per day (UTC) of this many days."""

router = pages_router()


@router.get("/")
async def home(viewer: ViewerOf) -> Response:
    """Show the state of the server."""
    now, recent, turns, curves = await asyncio.gather(_now(viewer), _recent(viewer), _turns(viewer), _curves(viewer))
    return page(viewer, "home.html", title="Home", turns=turns, curves=curves, **now, **recent)


@router.get("/live/home")
async def changes(request: Request, viewer: ViewerOf, draining: DrainingOf) -> Response:
    """Stream what changes on the page."""
    marks: list[Any] = [None]
    kept = [""]

    async def parts() -> dict[str, str]:
        now = await _now(viewer)
        if marks[0] != (mark := _mark(now["server"])) or not kept[0]:
            kept[0] = part(request, "home/recent.html", ui=TOP, **await _recent(viewer))
            marks[0] = mark
        return {"now": part(request, "home/now.html", ui=TOP, viewer=viewer, **now), "recent": kept[0]}

    return stream(request, parts, draining)


async def _now(viewer: Viewer) -> dict[str, Any]:
    return {"server": await viewer.maybe(StatusView, "/v1/status")}


async def _recent(viewer: Viewer) -> dict[str, Any]:
    promotions, runs, episodes = await asyncio.gather(
        viewer.maybe(PromotionList, "/v1/promotions", {"limit": SHOWN}),
        viewer.maybe(RunList, "/v1/runs"),
        viewer.maybe(EpisodeList, "/v1/episodes", {"limit": SHOWN}),
    )
    return {
        "promotions": promotions and promotions.data,
        "runs": runs and runs.data[:SHOWN],
        "episodes": episodes and episodes.data,
    }


async def _turns(viewer: Viewer) -> RecentTurns | None:
    """Return how many of the newest turns cannot be trained on."""
    try:
        ready = await viewer.get("/readyz")
    except Refused:  # Not ready, which the status says.
        return None
    return RecentTurns.model_validate(ready["turns"]) if ready.get("turns") else None


async def _curves(viewer: Viewer) -> list[Days]:
    """Return curves of the last days; none while the index of episodes is not available."""
    until = (time.time() // DAY_S + 1) * DAY_S
    try:
        query = {"from": until - DAYS * DAY_S, "to": until, "bucket": int(DAY_S)}
        stats = await viewer.read(StatsView, "/v1/stats", query)
    except Refused:
        return []
    if not any(stats.episodes):
        return []
    counts: list[tuple[str, list[int]]] = [("Episodes", stats.episodes), ("Answer tokens", stats.completion_tokens)]
    return [
        days("Success", stats.at, stats.success_rate, share=True),
        days("Mean reward", stats.at, stats.mean_reward),
        *(days(title, stats.at, [float(value) for value in values]) for title, values in counts),
    ]


def _mark(status: StatusView | None) -> Any:
    """Return what changes whenever the lists below the status do."""
    if status is None:
        return None
    training = status.training
    run = training and (training.run_id, training.state, training.step)
    return status.champion, status.head, status.canary, status.undecided_run, status.open_episodes, run
