"""A person plays a task: opens it, acts turn by turn, and leaves a demonstration that `sft` can train on."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

from fastapi import Query, Request, Response

from server.dashboard.drawings.draw import states_of
from server.dashboard.drawings.parts import Choices, State
from server.dashboard.forms import Form, FormOf
from server.dashboard.frame import page, see_other
from server.dashboard.inside import Viewer, ViewerOf
from server.dashboard.pages.episode import read, subject, transcript_of
from server.dashboard.problems import pages_router
from server.dashboard.transcripts.said import Said, said
from server.errors import BadRequest, Conflict
from upturn.wire import EnvironmentList, EpisodeOpened, EpisodeView, TaskList, TurnView

LISTED = 500
"""Tasks that the form offers; any other can be typed."""
ROLES = ("system", "user", "assistant")
BY_HAND = {"played_by": "a person"}
"""Metadata of the episodes, so that lists can find them."""

router = pages_router()


@router.get("/by-hand")
async def choose(
    viewer: ViewerOf,
    environment: Annotated[str, Query(max_length=200)] = "",
    split: Annotated[str, Query(max_length=200)] = "train",
) -> Response:
    """Choose a task."""
    listed = await viewer.read(EnvironmentList, "/v1/environments")
    tasks, known = None, {one.name: list(one.splits) for one in listed.data}
    splits = known.get(environment) or ["train", "test"]
    if environment:
        tasks = await viewer.read(TaskList, f"/v1/environments/{environment}/tasks", {"split": split, "limit": LISTED})
    return page(
        viewer,
        "by_hand.html",
        title="Play by hand",
        environments=[one for one in listed.data if one.missing is None],
        missing=[one for one in listed.data if one.missing is not None],
        kinds=listed.kinds,
        environment=environment,
        split=split,
        splits_listed=[(name, name) for name in splits],
        tasks=tasks,
    )


@router.post("/by-hand")
async def begin(viewer: ViewerOf, form: FormOf) -> Response:
    """Open an episode and show how it begins."""
    horizon = form.text("horizon")
    body = {
        "environment": form.text("environment"),
        "task": form.text("task"),
        "seed": _number(form, "seed") or 0,
        "metadata": BY_HAND,
        **({"horizon": _number(form, "horizon")} if horizon else {}),
    }
    opened = EpisodeOpened.model_validate(await viewer.post("/v1/episodes", body))
    view = await read(viewer, opened.id)
    return await _board(viewer, view, [message.model_dump() for message in opened.messages])


@router.get("/by-hand/{episode_id}")
async def board(episode_id: str, viewer: ViewerOf) -> Response:
    """Show where a task stands."""
    return await _board(viewer, await read(viewer, episode_id), [])


@router.post("/by-hand/{episode_id}")
async def act(episode_id: str, request: Request, viewer: ViewerOf, form: FormOf) -> Response:
    """Take a turn."""
    view = await read(viewer, episode_id)
    answer = form.text("choice") or form.raw("answer")
    if not answer.strip():
        raise BadRequest("write an answer, or choose one of the actions")
    messages = conversation(view) or _start(form)
    body = {"messages": messages, "answer": answer, "turn": _number(form, "turn")}
    await viewer.post(f"/v1/episodes/{episode_id}/demonstrations", body)
    return see_other(request, f"by-hand/{episode_id}")


@router.post("/by-hand/{episode_id}/end")
async def end(episode_id: str, request: Request, viewer: ViewerOf, form: FormOf) -> Response:
    """End an episode before its task is done."""
    await viewer.post(f"/v1/episodes/{episode_id}/close", {"reason": "ended by hand"})
    return see_other(request, f"episodes/{episode_id}")


def conversation(view: EpisodeView) -> list[dict[str, Any]]:
    """Return the conversation up to the next answer, along its newest branch; empty before the first turn."""
    by_index = {turn.index: turn for turn in view.turns}
    branch, at = list[TurnView](), view.turns[-1] if view.turns else None
    while at is not None:
        branch.append(at)
        at = None if at.extends is None else by_index.get(at.extends)
    messages: list[dict[str, Any]] = []
    for turn in reversed(branch):
        messages += [*turn.messages, turn.answer]
    if messages and view.steps:
        messages.append({"role": "user", "content": view.steps[-1].observation})
    return [_plain(said(message)) for message in messages]


def _plain(message: Said) -> dict[str, Any]:
    """Return a message with one of the roles that a person's conversation has: results of tools become the user's."""
    return {"role": message.role if message.role in ROLES else "user", "content": message.text}


async def _board(viewer: Viewer, view: EpisodeView, start: list[dict[str, Any]]) -> Response:
    """Show an episode; `start` is how it began, as long as no turn has recorded that."""
    if view.environment is None:
        raise Conflict("this episode has no environment, so nobody can play it by hand: its agent has the conversation")
    beginning = [said(message) for message in start]
    transcript = await asyncio.to_thread(transcript_of, view)
    state = await asyncio.to_thread(_state, view, beginning[-1].text if beginning else "")
    heard = conversation(view)
    return page(
        viewer,
        "by_hand_board.html",
        title=subject(view),
        transcript=transcript,
        view=view,
        start=json.dumps(start) if start else "",
        beginning=beginning,
        lost=view.status == "open" and not heard and not start,
        latest=said(heard[-1]) if heard and view.status == "open" else None,
        state=State(tuple(part for part in state.parts if not isinstance(part, Choices)), state.note),
        choices=[name for part in state.parts if isinstance(part, Choices) for name in part.names],
        turn=len(view.turns),
        left=max(0, view.horizon - max(len(view.turns), len(view.steps))),
    )


def _state(view: EpisodeView, first: str) -> State:
    states = states_of(view, first)
    return states[-1] if states else State()


def _start(form: Form) -> list[dict[str, Any]]:
    try:
        start = json.loads(form.raw("start"))
    except (ValueError, RecursionError):
        start = None
    if not isinstance(start, list) or not start:
        raise BadRequest("this page has lost how the episode began: open the task again")
    return start


def _number(form: Form, name: str) -> int | None:
    text = form.text(name)
    if text and not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise BadRequest(f"{name} must be a whole number", param=name)
    return int(text) if text else None
