"""Learning curves: the learner steps of a run, or of two. The scripts in `static/learning/` draw them."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Response
from fastapi.responses import JSONResponse

from server.dashboard.frame import HEADERS, page
from server.dashboard.inside import ViewerOf
from server.dashboard.problems import pages_router
from upturn.wire import RunList, RunView

OFFERED = 200
"""Runs to choose from, the newest ones."""
Id = Annotated[str, Query(max_length=200)]

router = pages_router()


@router.get("/learning")
async def learning(viewer: ViewerOf, run: Id = "", against: Id = "") -> Response:
    """Show the curves of a run; by default of the newest one that has learned something."""
    listed = (await viewer.read(RunList, "/v1/runs")).data
    chosen = next((one for one in listed if one.id == run), None)
    if run and chosen is None:
        chosen = await viewer.read(RunView, f"/v1/runs/{run}")  # Says that there is none.
    if chosen is None:
        chosen = next((one for one in listed if one.step), None)
    return page(
        viewer,
        "learning/page.html",
        title="Learning",
        runs=[one for one in listed if one.step or one is chosen][:OFFERED],
        run=chosen,
        against=next((one for one in listed if one.id == against), None),
    )


@router.get("/learning/data")
async def data(viewer: ViewerOf, run: Id, first: Annotated[int, Query(ge=0, lt=2**31)] = 0) -> Response:
    """Return the learner steps of a run as the route has them, from the step `first` on."""
    return JSONResponse(await viewer.get(f"/v1/runs/{run}/steps", {"first": first}), headers=HEADERS)
