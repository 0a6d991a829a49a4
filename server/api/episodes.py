"""Episodes over REST: open, list, read, close, erase. Steps are in `steps.py`, rewards in `rewards.py`."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request

from server.api.access.authentication import CallerOf, NoTrain, needs, own_episode
from server.api.access.json_route import JsonRoute
from server.api.opening import Openings
from server.api.services import service
from server.errors import BadRequest
from server.recording.episodes import Episodes
from server.recording.privacy import Privacy
from server.recording.reading.episode_list import Filter, list_episodes
from server.recording.reading.indexer import Indexer
from server.recording.reading.words import phrase_of
from server.recording.transcript import read_episode
from server.rendering.pieces import pieces
from server.rendering.render import Renderer
from server.store.database import Database
from upturn.wire import ChatMessage, EpisodeClose, EpisodeList, EpisodeOpen, EpisodeOpened, EpisodeTrained, EpisodeView

DatabaseOf = Annotated[Database, service(Database)]
EpisodesOf = Annotated[Episodes, service(Episodes)]
IndexerOf = Annotated[Indexer, service(Indexer)]
OpeningsOf = Annotated[Openings, service(Openings)]
PrivacyOf = Annotated[Privacy, service(Privacy)]
RendererOf = Annotated[Renderer, service(Renderer)]
Name = Annotated[str | None, Query(max_length=300)]
Number = Annotated[int | None, Query(ge=0, lt=2**31)]
Reward = Annotated[float | None, Query(allow_inf_nan=False)]
Status = Literal["open", "terminated", "truncated", "closed", "error"]

router = APIRouter(prefix="/v1", tags=["episodes"], route_class=JsonRoute)


@router.post("/episodes", status_code=201, dependencies=[needs("agent")])
async def open_episode(
    body: EpisodeOpen, request: Request, openings: OpeningsOf, caller: CallerOf, no_train: NoTrain
) -> EpisodeOpened:
    """Open an episode of an environment, or of a live agent."""
    if no_train:
        body = body.model_copy(update={"trainable": False})
    opened = await openings.open(body, caller.key_hash, request.is_disconnected)
    episode, reset = opened.episode, opened.reset
    return EpisodeOpened(
        id=episode.id,
        messages=[ChatMessage.model_validate(m) for m in reset.messages] if reset else [],
        tools=opened.tools,
        key=opened.key,
        horizon=episode.horizon,
        policy_version=episode.policy_version,
        base_url=f"{str(request.base_url).rstrip('/')}/episodes/{episode.id}/v1",
    )


@router.get("/episodes", dependencies=[needs("agent")])
async def find_episodes(
    database: DatabaseOf,
    index: IndexerOf,
    caller: CallerOf,
    key: Annotated[str | None, Query(max_length=200)] = None,
    status: Annotated[list[Status], Query(max_length=5)] = [],  # noqa: B006
    environment: Annotated[str | None, Query(max_length=200)] = None,
    group: Annotated[str | None, Query(max_length=300)] = None,
    opened_from: Annotated[float | None, Query(ge=0, lt=1e11, allow_inf_nan=False)] = None,
    opened_before: Annotated[float | None, Query(ge=0, lt=1e11, allow_inf_nan=False)] = None,
    metadata: Annotated[list[str], Query(max_length=16)] = [],  # noqa: B006
    text: Annotated[str | None, Query(min_length=1, max_length=1000)] = None,
    task: Annotated[str | None, Query(max_length=10_000)] = None,
    play: Name = None,
    live: bool | None = None,
    success: bool | None = None,
    version: Number = None,
    reward_from: Reward = None,
    reward_to: Reward = None,
    untrainable: Name = None,
    run: Name = None,
    step: Number = None,
    after: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> EpisodeList:
    """List episodes, the newest first: an agent's own ones, and all of them for an admin.

    `key` is the name or id of the key that opened them, or `me`. `metadata` is `NAME=VALUE`, as often as needed. `text`
    is words of messages and answers, in this order. `live` episodes were not played by the server. `version` sampled
    an answer. `untrainable` is why a turn cannot be trained on, or `any`. `run`, with or without `step`, was trained on
    them. `after` is `next` of the page before.
    """
    if "\0" in "".join(filter(None, (key, environment, group, after, task, play, untrainable, run, *metadata))):
        raise BadRequest("a filter contains the character NUL, which no episode has")
    if text is not None and phrase_of(text) is None:
        raise BadRequest("text has no words to search for", param="text")
    if step is not None and run is None:
        raise BadRequest("step needs the run that it is a step of", param="step")
    pairs = [pair.partition("=") for pair in metadata]
    if not all(sign for _, sign, _ in pairs):
        raise BadRequest("metadata must be NAME=VALUE", param="metadata")
    mine = not caller.may() or key == "me"
    chosen = Filter(
        owner=caller.key_hash if mine else None,
        key=None if key == "me" else key,
        statuses=list(status),
        environment=environment,
        group=group,
        opened_from=opened_from,
        opened_before=opened_before,
        metadata={name: value for name, _, value in pairs},
        text=text,
        task=task,
        play=play,
        live=live,
        success=success,
        version=version,
        reward_from=reward_from,
        reward_to=reward_to,
        untrainable=untrainable,
        run=run,
        step=step,
    )
    if chosen.searches:
        await index.catch_up()
    return await asyncio.to_thread(list_episodes, database, chosen, after=after, limit=limit, index=index)


@router.get("/episodes/{episode_id}", dependencies=[own_episode])
async def get_episode(
    episode_id: str, database: DatabaseOf, renderer: RendererOf, tokens: bool | None = None
) -> EpisodeView:
    """Return an episode with its whole transcript.

    With `tokens=true`, each turn also has the tokens that it adds, with text, logprob and version. With `tokens=false`,
    its lists of all token ids are empty.
    """
    shown = partial(pieces, renderer.tokenizer) if tokens else None
    return await asyncio.to_thread(read_episode, database, episode_id, with_ids=tokens is not False, pieces=shown)


@router.get("/episodes/{episode_id}/trained", dependencies=[own_episode])
async def trained(episode_id: str, privacy: PrivacyOf) -> EpisodeTrained:
    """List the runs and policy versions that were trained on an episode."""
    return await privacy.trained(episode_id)


@router.delete("/episodes/{episode_id}", status_code=204, dependencies=[needs("admin")])
async def erase_episode(episode_id: str, privacy: PrivacyOf) -> None:
    """Erase an episode and everything recorded of it."""
    await privacy.erase(episode_id)


@router.post("/episodes/{episode_id}/close", dependencies=[own_episode])
async def close_episode(episode_id: str, body: EpisodeClose, episodes: EpisodesOf, database: DatabaseOf) -> EpisodeView:
    """End an episode."""
    await episodes.end(await episodes.get(episode_id), "closed", reason=body.reason)
    return await asyncio.to_thread(read_episode, database, episode_id)
