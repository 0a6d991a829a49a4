"""Two episodes side by side: of one task, of two versions, or any two."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Annotated

from fastapi import Query, Response

from server.dashboard.frame import page
from server.dashboard.inside import Viewer, ViewerOf
from server.dashboard.pages.episode import Transcript, others_of, read, subject, transcript_of
from server.dashboard.problems import pages_router
from server.dashboard.transcripts.moments import Moment
from upturn.wire import EpisodeList

SEARCHED = 100
"""Newest episodes of each version in which a task of both is searched for."""
Id = Annotated[str, Query(max_length=64, pattern=r"^\s*[\w.-]*\s*$")]
Version = Annotated[int | None, Query(ge=0, lt=2**31)]

router = pages_router()


@dataclass(frozen=True, slots=True)
class Pair:
    """The same turn of both episodes."""

    number: int
    left: Moment | None
    right: Moment | None
    differs: bool
    """The answers differ."""


@router.get("/compare")
async def compare(
    viewer: ViewerOf,
    left: Id = "",
    right: Id = "",
    left_version: Version = None,
    right_version: Version = None,
    environment: Annotated[str, Query(max_length=200)] = "",
    task: Annotated[str, Query(max_length=1000)] = "",
) -> Response:
    """Show two episodes turn by turn; two versions stand for the newest task that both have played."""
    note = ""
    if not left and not right and left_version is not None and right_version is not None:
        left, right = await of_versions(viewer, left_version, right_version, environment, task)
        if not left:
            note = f"Versions {left_version} and {right_version} have no recent task in common."
    views = [await read(viewer, one.strip()) for one in (left, right) if one.strip()]
    sides = [await asyncio.to_thread(transcript_of, view) for view in views]
    pairs = list(pairs_of(*sides)) if len(sides) == 2 else []
    return page(
        viewer,
        "compare.html",
        title="Side by side",
        sides=sides,
        pairs=pairs,
        first=next((pair.number for pair in pairs if pair.differs), None),
        names=[subject(view) for view in views],
        others=await others_of(viewer, views[0]) if len(views) == 1 else [],
        note=note,
        asked={"left": left, "right": right, "left_version": left_version, "right_version": right_version},
    )


async def of_versions(viewer: Viewer, left: int, right: int, environment: str, task: str) -> tuple[str, str]:
    """Return the newest episodes of two versions on a common task; empty ids if there is none."""
    found = []
    for version in (left, right):
        params = {"version": version, "environment": environment or None, "task": task or None, "limit": SEARCHED}
        listed = await viewer.read(EpisodeList, "/v1/episodes", params)
        # The list has the newest first, so the newest of a task wins.
        found.append({(one.environment, one.task): one.id for one in reversed(listed.data) if one.task is not None})
    ours, theirs = found
    common = [name for name in reversed(ours) if name in theirs]
    return (ours[common[0]], theirs[common[0]]) if common else ("", "")


def pairs_of(left: Transcript, right: Transcript) -> Iterator[Pair]:
    """Yield the moments of two episodes in pairs."""
    for number, (one, other) in enumerate(zip_longest(left.moments, right.moments), 1):
        yield Pair(number, one, other, one is None or other is None or _did(one) != _did(other))


def _did(moment: Moment) -> object:
    if moment.answer is not None:
        return moment.answer.text, [(call.name, call.arguments) for call in moment.answer.calls]
    return moment.step.action if moment.step is not None else ""
