"""Episodes: all of them by what is known of them, newest first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlencode

from fastapi import Request, Response

from server.dashboard.frame import page
from server.dashboard.inside import Refused, Viewer, ViewerOf
from server.dashboard.problems import pages_router
from server.dashboard.transcripts.reasons import REASONS, reason
from upturn.wire import EnvironmentList, EpisodeList, EpisodeSummary, KeyList

PER_PAGE = 50
MOST_KEYS = 200
"""Keys that the form lists, chosen by this project; a link may name any other."""
MOST_ASKED = 50
"""The newest keys, of which the page says whether a version served them: each takes a query."""
STATUSES = ("open", "terminated", "truncated", "closed", "error")
AGES: Mapping[str, tuple[str, float]] = {
    "hour": ("the last hour", 3600.0),
    "day": ("the last day", 86_400.0),
    "week": ("the last 7 days", 7 * 86_400.0),
    "month": ("the last 30 days", 30 * 86_400.0),
}
"""Choices of the form: name, words, and seconds."""
LABELS: Mapping[str, str] = {
    "text": "text",
    "status": "status",
    "environment": "environment",
    "task": "task",
    "live": "live traffic",
    "success": "success",
    "reward_from": "reward from",
    "reward_to": "reward up to",
    "version": "version",
    "untrainable": "not trainable",
    "key": "key",
    "group": "group",
    "play": "play",
    "run": "run",
    "step": "learner step",
    "metadata": "metadata",
    "opened_from": "opened from",
    "opened_before": "opened before",
    "age": "opened in",
}
"""All filters of the page, with the words that show them; each but `age` is a parameter of `GET /v1/episodes`."""
SEVERAL = ("status", "metadata")
YES = {"true": "yes", "false": "no"}

router = pages_router()


@dataclass(frozen=True, slots=True)
class Chip:
    """A filter that is on."""

    label: str
    value: str
    at: float | None
    """The value as a time."""
    without: str
    """The query of the page without it."""


@router.get("/episodes")
async def episodes(request: Request, viewer: ViewerOf) -> Response:
    """List the episodes that fit the filters in the query."""
    asked = filters_of(request)
    wrong, found = "", EpisodeList(data=[], next=None)
    try:
        found = await viewer.read(EpisodeList, "/v1/episodes", as_params(asked, time.time()))
    except Refused as refused:
        if refused.status not in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY):
            raise
        wrong = refused.message
    environments = await viewer.maybe(EnvironmentList, "/v1/environments")
    keys = await viewer.maybe(KeyList, "/v1/keys") if viewer.may() else None
    return page(
        viewer,
        "episodes.html",
        title=heading(asked),
        asked=asked,
        wrong=wrong,
        status=HTTPStatus.BAD_REQUEST if wrong else HTTPStatus.OK,
        rows=found.data,
        next=None if found.next is None else urlencode([*_pairs(asked), ("after", found.next)]),
        newest=urlencode(_pairs(asked)) if request.query_params.get("after") else None,
        missing=found.missing,
        steps=neighbors(asked),
        chips=chips(asked),
        environments=[] if environments is None else [one.name for one in environments.data],
        keys=[] if keys is None else [key.name for key in keys.data][:MOST_KEYS],
        reasons_listed=[("any", "any reason"), *((name, name) for name in REASONS)],
        reason_of=why_not,
        ages_listed=[(name, spelled) for name, (spelled, _) in AGES.items()],
        statuses=STATUSES,
        served=[] if wrong else await served_to(viewer, asked, keys),
        served_query=urlencode(_pairs(asked)),
    )


def filters_of(request: Request) -> dict[str, list[str]]:
    """Return the filters of a page's query, and where its list begins; empty fields of the form are no filters."""
    names = [name for name in (*LABELS, "after") if any(request.query_params.getlist(name))]
    return {name: [value for value in request.query_params.getlist(name) if value] for name in names}


def as_params(asked: Mapping[str, list[str]], now: float) -> dict[str, str | int | float | list[str] | None]:
    """Return the filters as parameters of `GET /v1/episodes`."""
    params: dict[str, str | int | float | list[str] | None] = {"limit": PER_PAGE}
    params |= {name: values if name in SEVERAL else values[-1] for name, values in asked.items() if name != "age"}
    if "version" in asked:
        params["version"] = asked["version"][-1].removeprefix("@")
    if (age := asked.get("age", [""])[-1]) in AGES and "opened_from" not in asked:
        params["opened_from"] = now - AGES[age][1]
    return params


def chips(asked: Mapping[str, list[str]]) -> list[Chip]:
    """Return the filters that are on, each with the query without it."""
    made = []
    for name, label in LABELS.items():
        for value in asked.get(name, ()):
            rest = [(other, one) for other, one in _pairs(asked) if (other, one) != (name, value)]
            if name == "run":  # A learner step means nothing without its run.
                rest = [(other, one) for other, one in rest if other != "step"]
            spelled = AGES[value][0] if name == "age" and value in AGES else YES.get(value, value)
            made.append(Chip(label, spelled, _time(value) if name.startswith("opened") else None, urlencode(rest)))
    return made


def neighbors(asked: Mapping[str, list[str]]) -> list[tuple[int, str]]:
    """Return the learner steps before and after the one that the page shows, with the query of each."""
    step = asked.get("step", [""])[-1]
    if "run" not in asked or not (step.isascii() and step.isdecimal() and len(step) < 9):
        return []
    rest = [(name, value) for name, value in _pairs(asked) if name != "step"]
    return [(one, urlencode([*rest, ("step", str(one))])) for one in (int(step) - 1, int(step) + 1) if one >= 0]


def heading(asked: Mapping[str, list[str]]) -> str:
    """Return the title of the page."""
    version, run, step = (asked.get(name, [""])[-1].removeprefix("@") for name in ("version", "run", "step"))
    if run and step:
        return f"Episodes that trained step {step} of {run}"
    if run:
        return f"Episodes that trained {run}"
    if version and asked.get("live") == ["true"]:
        return f"Who was served by version {version}"
    return f"Episodes answered by version {version}" if version else "Episodes"


def why_not(episode: EpisodeSummary) -> list[str]:
    """Return why an episode's turns cannot be trained on, most frequent first, with their counts."""
    if not episode.trainable:
        return ["kept from training"]
    ordered = sorted(episode.untrainable.items(), key=lambda one: (-one[1], one[0]))
    return [f"{name} ({count} of {episode.turns}): {reason(name).meaning}" for name, count in ordered]


async def served_to(viewer: Viewer, asked: Mapping[str, list[str]], keys: KeyList | None) -> list[tuple[str, float]]:
    """Return the keys whose live episodes fit the filters, with the time of the newest, the newest first.

    Only where the page asks who was served by a version, and for those who may see keys.
    """
    if keys is None or "version" not in asked or asked.get("live") != ["true"] or "key" in asked:
        return []
    params = {**as_params(asked, time.time()), "limit": 1, "after": None}
    asked_about = keys.data[:MOST_ASKED]
    newest = await asyncio.gather(
        *(viewer.maybe(EpisodeList, "/v1/episodes", {**params, "key": key.id}) for key in asked_about)
    )
    found = [
        (key.name, one.opened_at)
        for key, listed in zip(asked_about, newest, strict=True)
        for one in (listed.data if listed else [])
    ]
    return sorted(found, key=lambda one: -one[1])


def _pairs(asked: Mapping[str, list[str]]) -> list[tuple[str, str]]:
    return [(name, value) for name, values in asked.items() if name != "after" for value in values]


def _time(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None
