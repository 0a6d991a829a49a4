"""From a chat request to the turns that answer it: which episode, which version, new or sent again (steps 1 to 4).

Every dialect of the API comes through here: `chat.py` is OpenAI's chat, the others translate into its request. A call
is tied to its episode by a header, by the URL, by the episode's own key, or by the conversation itself.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Request

from server.api.access.authentication import CallerOf, NoTrain
from server.api.dialects.chat_request import ChatRequest
from server.api.state import State
from server.errors import BadRequest, HorizonReached
from server.recording.replay import find_recorded
from server.recording.turn import Answer, Turn
from server.recording.turn_request import TurnRequest
from server.store.database import new_id
from server.versions.routing import find_episode
from upturn.wire import EpisodeOpen


@dataclass(frozen=True, slots=True)
class Call:
    """What a request says beside its body."""

    owner: str
    """SHA-256 of the caller's key."""
    named: str | None
    """The episode that the URL, the header or the key names; None where the caller knows nothing of episodes."""
    retry: bool
    """The client sends it again (OpenAI's and Anthropic's SDKs say so)."""
    idempotency_key: str | None
    trains: bool
    """False where the caller forbids training on it."""


async def _call(
    request: Request,
    caller: CallerOf,
    no_train: NoTrain,
    x_episode_id: Annotated[str | None, Header()] = None,
    x_stainless_retry_count: Annotated[str | None, Header()] = None,
    idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
) -> Call:
    return Call(
        owner=caller.key_hash,
        named=request.path_params.get("episode_id") or x_episode_id or caller.episode_id,
        retry=(x_stainless_retry_count or "0") != "0",
        idempotency_key=idempotency_key,
        trains=not no_train,
    )


CallOf = Annotated[Call, Depends(_call)]


@dataclass(frozen=True, slots=True)
class Conversation:
    """A request that is being answered."""

    policy: str
    """The policy's name."""
    turns: list[Turn]
    """One for each answer."""

    @property
    def headers(self) -> dict[str, str]:
        """What every answer says of itself."""
        return {
            "x-episode-id": self.turns[0].episode_id,
            "x-turn-id": ",".join(turn.id for turn in self.turns),
            "x-policy-version": str(self.turns[0].version),
        }

    async def answers(self) -> list[Answer]:
        """Wait for all answers; each is durable then."""
        return [await turn.answer() for turn in self.turns]

    def leave(self) -> None:
        """The client has gone away: stop what nobody else waits for, and record it as far as it came."""
        for turn in self.turns:
            turn.leave()


async def converse(parts: State, call: Call, body: ChatRequest) -> Conversation:
    """Begin to answer a request, or find the answers it had before.

    Raises:
        UpturnError: the request is wrong, comes too late, or cannot be answered now; nothing was recorded.
    """
    try:
        same = hashlib.sha256(body.model_dump_json().encode()).hexdigest()
    except ValueError as error:  # Half a surrogate pair, or hundreds of levels of nesting.
        raise BadRequest("the body holds what JSON cannot say again") from error
    ask = body.ask(parts.engine.context_tokens, owner=call.owner, digest=same, idempotency_key=call.idempotency_key)
    turns = await _sent_again(parts, call, ask)
    if not turns:
        turns = await _begin(parts, call, body, ask)
        parts.shadow.offer(turns)
    return Conversation(parts.pointers.name, turns)


async def _sent_again(parts: State, call: Call, ask: TurnRequest) -> list[Turn]:
    """Return the turns that answer, or have answered, this very request of this caller."""
    if not call.retry and call.idempotency_key is None:
        return []
    if turns := parts.turns.in_progress(ask):
        return turns
    return parts.turns.again(
        await asyncio.to_thread(
            find_recorded,
            parts.database,
            digest=ask.digest,
            key=call.idempotency_key,
            owner=ask.owner,
            episode_id=call.named,
        )
    )


async def _begin(parts: State, call: Call, body: ChatRequest, ask: TurnRequest) -> list[Turn]:
    """Take new turns, in the named or found episode or in a new one."""
    found = call.named or await find_episode(parts.episodes, call.owner, ask.messages, ask.frame)
    if found is None:
        return await _in_new_episode(parts, call, body, ask)
    episode = await parts.episodes.get(found)
    if not call.trains:
        await parts.episodes.never_train(episode)
    await parts.residency.load_on_demand(body.model, episode.policy_version)
    version = parts.pointers.for_episode(episode, body.model, parts.engine)
    try:
        return parts.turns.begin(episode, ask, version)
    except HorizonReached:
        if not episode.answering:  # Its last turns may still be on their way into the record.
            await parts.episodes.end(episode, "truncated", reason="horizon")
        if call.named is not None:
            raise
    # An agent that knows nothing of episodes goes on talking, in the next one.
    return await _in_new_episode(parts, call, body, ask)


async def _in_new_episode(parts: State, call: Call, body: ChatRequest, ask: TurnRequest) -> list[Turn]:
    """Open an episode for a conversation that belongs to none, if it can be answered at all, and take its turns."""
    await parts.residency.load_on_demand(body.model)
    episode_id = new_id("ep")
    version = parts.pointers.for_new_episode(body.model, parts.engine, episode_id=episode_id, owner_hash=ask.owner)
    ids = parts.turns.check(ask)
    episode, _ = await parts.episodes.open(
        EpisodeOpen(trainable=call.trains),
        policy_version=version,
        owner_hash=ask.owner,
        horizon=parts.settings.default_horizon,
        episode_id=episode_id,
    )
    if not ask.whole:  # A stream tells of its episode before its turn is durable.
        episode.begin_writing()
    return parts.turns.begin(episode, ask, version, ids)
