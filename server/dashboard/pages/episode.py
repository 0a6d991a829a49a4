"""One episode: its conversation, states, rewards, why it ended, what trained on it, and its tokens."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from typing import Annotated

from fastapi import Query, Request, Response
from fastapi.responses import JSONResponse

from server.dashboard.forms import FormOf
from server.dashboard.frame import HEADERS, page, see_other
from server.dashboard.inside import Viewer, ViewerOf
from server.dashboard.problems import pages_router
from server.dashboard.transcripts.branches import Tree, tree_of
from server.dashboard.transcripts.moments import Moment, moments_of
from server.dashboard.transcripts.reasons import Reason, whole_episode, why_it_ended
from server.dashboard.transcripts.tokens import COLORS, Color, Legend, Piece, legend, pieces_of, versions_of
from upturn.wire import EpisodeList, EpisodeSummary, EpisodeTraining, EpisodeView

PER_PAGE = 200
"""Turns on one page, so that browsers stay quick; chosen by this project."""
OTHERS = 8
"""Other episodes of the task that the page lists."""

router = pages_router()


@dataclass(frozen=True, slots=True)
class Transcript:
    """Everything that the page shows of an episode."""

    view: EpisodeView
    moments: list[Moment]
    tree: Tree | None
    ended: str
    untrainable: list[Reason]
    """Why the whole episode is not trained on."""
    untrainable_turns: int
    versions: list[int]


def transcript_of(view: EpisodeView) -> Transcript:
    """Return an episode as it is read. May read files the first time, for drawings."""
    return Transcript(
        view=view,
        moments=moments_of(view),
        tree=tree_of(view),
        ended=why_it_ended(view),
        untrainable=whole_episode(view),
        untrainable_turns=sum(not turn.trainable for turn in view.turns),
        versions=versions_of(view),
    )


@router.get("/episodes/{episode_id}")
async def episode(
    episode_id: str,
    viewer: ViewerOf,
    tokens: bool = False,
    color: Color = "logprob",
    trained: Annotated[int, Query(ge=0, lt=10_000)] = 0,
    first: Annotated[int, Query(ge=0, lt=2**31)] = 0,
) -> Response:
    """Show an episode, from its turn `first` on; with `tokens`, token by token.

    `trained` chooses the learner step of the advantage.
    """
    view = await read(viewer, episode_id, tokens=tokens)
    transcript = await asyncio.to_thread(transcript_of, view)
    step = view.trained[trained] if trained < len(view.trained) else None
    return page(
        viewer,
        "episode.html",
        title=subject(view),
        transcript=transcript,
        moments=transcript.moments[first : first + PER_PAGE],
        first=first,
        pages=range(0, len(transcript.moments), PER_PAGE) if len(transcript.moments) > PER_PAGE else [],
        view=view,
        tokens=tokens,
        color=color,
        colors=COLORS,
        chosen=trained,
        pieces=_pieces(transcript, color, step, first) if tokens else {},
        legend=_legend(transcript, color) if tokens else [],
        others=await others_of(viewer, view),
        once=secrets.token_hex(8),
    )


@router.post("/episodes/{episode_id}/feedback")
async def feedback(episode_id: str, request: Request, viewer: ViewerOf, form: FormOf) -> Response:
    """Record what a person says about an episode or a turn."""
    turn = form.text("turn")
    body = {
        "thumb": form.text("thumb") or None,
        "comment": form.text("comment") or None,
        "answer": form.raw("answer") if form.raw("answer").strip() else None,
        "turn": int(turn) if turn.isdecimal() else None,
    }
    said = {name: value for name, value in body.items() if value is not None}
    await viewer.post(f"/v1/episodes/{episode_id}/feedback", {**said, "key": form.text("once") or None})
    return see_other(request, f"episodes/{episode_id}#{f'turn-{turn}' if turn.isdecimal() else 'feedback'}")


@router.post("/episodes/{episode_id}/close")
async def close(episode_id: str, request: Request, viewer: ViewerOf, form: FormOf) -> Response:
    """End an open episode."""
    await viewer.post(f"/v1/episodes/{episode_id}/close", {"reason": form.text("reason") or None})
    return see_other(request, f"episodes/{episode_id}")


@router.post("/episodes/{episode_id}/erase")
async def erase(episode_id: str, request: Request, viewer: ViewerOf, form: FormOf) -> Response:
    """Erase an episode and everything recorded of it."""
    await viewer.delete(f"/v1/episodes/{episode_id}")
    return see_other(request, "episodes")


@router.get("/episodes/{episode_id}/json")
async def as_json(episode_id: str, viewer: ViewerOf) -> Response:
    """Return an episode as its route does, as a file."""
    found = await viewer.get(f"/v1/episodes/{episode_id}")
    kept = {**HEADERS, "content-disposition": f'attachment; filename="{found["id"]}.json"'}
    return JSONResponse(found, headers=kept)


async def read(viewer: Viewer, episode_id: str, *, tokens: bool = False) -> EpisodeView:
    """Return an episode, with its tokens only where they are shown: without them it is much smaller."""
    return await viewer.read(EpisodeView, f"/v1/episodes/{episode_id}", {"tokens": tokens})


def subject(view: EpisodeView | EpisodeSummary) -> str:
    """Return what an episode is about, in a few words."""
    return f"{view.environment} {view.task}" if view.environment else "Live episode"


async def others_of(viewer: Viewer, view: EpisodeView) -> list[EpisodeSummary]:
    """Return the newest other episodes of the same task, or of the same group."""
    if view.environment is not None and view.task is not None:
        params = {"environment": view.environment, "task": view.task}
    elif view.group is not None:
        params = {"group": view.group}
    else:
        return []
    found = await viewer.maybe(EpisodeList, "/v1/episodes", {**params, "limit": OTHERS + 1})
    return [one for one in found.data if one.id != view.id][:OTHERS] if found is not None else []


def _pieces(transcript: Transcript, color: Color, step: EpisodeTraining | None, first: int) -> dict[int, list[Piece]]:
    """Return the pieces of each turn of a page, by its index."""
    advantage = None if step is None else step.advantage
    shown = transcript.view.turns[first : first + PER_PAGE]
    return {turn.index: pieces_of(turn, color, advantage, transcript.versions) for turn in shown}


def _legend(transcript: Transcript, color: Color) -> list[Legend]:
    return legend(color, transcript.versions)
