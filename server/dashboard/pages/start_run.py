"""Starts a run: the configured one, one like an earlier run, or one from a form that shows the TOML it writes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Query, Request, Response

from server.dashboard.forms import Form, FormOf
from server.dashboard.frame import fragment, page, see_other
from server.dashboard.inside import Refused, Viewer, ViewerOf
from server.dashboard.problems import pages_router
from server.dashboard.toml_text import TABLE, read_run, write_run, write_table
from server.errors import BadRequest, Forbidden
from upturn.wire import ALGORITHMS, EnvironmentList, EnvironmentView, RunConfig, RunView, ScheduleView

LONGEST = 200
"""Characters of a field."""

ALGORITHM: str = RunConfig.model_fields["algorithm"].default

router = pages_router()


@router.get("/runs/new")
async def new(viewer: ViewerOf, like: Annotated[str, Query(max_length=200)] = "") -> Response:
    """Show the ways to start a run."""
    toml = write_run((await viewer.read(RunView, f"/v1/runs/{like}")).config) if like else ""
    return await _page(viewer, toml=toml, like=like)


@router.get("/runs/new/toml")
async def written(viewer: ViewerOf) -> Response:
    """Return the TOML of a form, while it is being filled in."""
    return fragment(viewer, "runs/toml.html", toml=toml_of(_fields(viewer.request)), wrong="")


@router.post("/runs")
async def start(viewer: ViewerOf, form: FormOf) -> Response:
    """Start or rehearse a run."""
    body: dict[str, Any] = {"trigger": "dashboard"}
    toml = form.raw("toml")
    try:
        if form.text("configured") != "yes":
            config = read_run(toml)
            body["config"] = config.model_dump(mode="json")
        if form.text("do") == "rehearse":
            wanted = {"config": body["config"]} if "config" in body else {}
            rehearsal = await viewer.post("/v1/rehearsals", wanted)
            return see_other(viewer.request, f"schedule?rehearsal={rehearsal['id']}")
        created = await viewer.post("/v1/runs", body)
    except BadRequest as error:
        return await _page(viewer, toml=toml, wrong=error.message, status=400)
    except Refused as refused:
        if refused.status != 400:
            raise
        return await _page(viewer, toml=toml, wrong=refused.message, status=400)
    return see_other(viewer.request, f"runs/{created['id']}")


async def _page(viewer: Viewer, *, toml: str, wrong: str = "", like: str = "", status: int = 200) -> Response:
    if not viewer.may("admin"):
        raise Forbidden("starting a run needs a key with the scope admin")
    schedule, environments = await asyncio.gather(
        viewer.read(ScheduleView, "/v1/schedule"), viewer.read(EnvironmentList, "/v1/environments")
    )
    playable = [one for one in environments.data if one.missing is None]
    fields = _fields(viewer.request) if viewer.request.method == "GET" else Form({})
    if not fields.fields and playable:
        first = playable[0]
        fields = Form({"environment": [first.name], "evaluated": ["test"] if "test" in first.splits else []})
    return page(
        viewer,
        "runs/new.html",
        title="Start a run",
        status=status,
        configured=None if schedule.run is None else write_run(schedule.run),
        environments=playable,
        splits=_splits(playable),
        algorithms=list(ALGORITHMS),
        toml=toml or toml_of(fields),
        fields=fields,
        wrong=wrong,
        like=like,
    )


def _fields(request: Request) -> Form:
    query = request.query_params
    return Form({name: [value[:LONGEST] for value in query.getlist(name)] for name in query})


def _splits(environments: list[EnvironmentView]) -> list[str]:
    """Return the names of all splits, `train` first."""
    found = {split for environment in environments for split in environment.splits}
    return sorted(found, key=lambda split: (split != "train", split))


def toml_of(form: Form) -> str:
    """Return the TOML of the fields of the form."""
    rounds = [_number(part) for part in form.text("rounds", "10, 20, 30").replace(",", " ").split()]
    schedules: Mapping[str, Mapping[str, Any]] = {
        "fixed": {"kind": "fixed", "horizon": rounds[0] if rounds else 10},
        "stepwise": {"kind": "stepwise", "rounds": rounds, "every": _number(form.text("every", "10"))},
        "adaptive": {"kind": "adaptive", "rounds": rounds},
    }
    environment, evaluated = form.text("environment"), form.text("evaluated")
    sampling = {"temperature": _given(form, "temperature"), "max_tokens": _given(form, "max_tokens")}
    play = {
        "environment": environment,
        "split": form.text("split", "train"),
        "curriculum": form.text("curriculum") or None,
        "groups": _given(form, "groups"),
        "group_size": _given(form, "group_size"),
        "sampling": sampling if any(value is not None for value in sampling.values()) else None,
    }
    rate, minutes = _given(form, "lr"), _given(form, "minutes")
    return write_table(
        TABLE,
        {
            "campaign": form.text("campaign") or None,
            "algorithm": form.text("algorithm", ALGORITHM),
            "steps": _number(form.text("steps", "40")),
            "schedule": schedules.get(form.text("horizon", "stepwise"), {}),
            "play": play if environment else None,
            "live": {"min_episodes": 8} if form.text("live") else None,
            "optimizer": None if rate is None else {"lr": rate},
            "kl_coef": _given(form, "kl_coef"),
            "budget": None if minutes is None else {"minutes": minutes},
            "evaluation": {"tasks": {environment: evaluated}} if environment and evaluated else None,
        },
    )


def _given(form: Form, name: str) -> int | float | str | None:
    """Return the number in a field; None if it is empty."""
    text = form.text(name)
    return _number(text) if text else None


def _number(text: str) -> int | float | str:
    """Return a number as itself, and anything else unchanged, so that the check of the config names the field."""
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        return value if abs(value) < 1e300 else text
    return text
