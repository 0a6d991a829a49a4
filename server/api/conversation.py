"""From a chat request to the turns that answer it: which episode, which version, new or sent again (steps 1 to 4).

Every dialect of the API comes through here: `chat.py` is OpenAI's chat, the others translate into its request. A call
is tied to its episode by a header, by the URL, by the episode's own key, or by the conversation itself.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Request

from clients.wire import EpisodeOpen
from server.api.chat_request import ChatRequest
from server.api.state import State
from server.errors import HorizonReached
from server.policy.routing import find_episode
from server.policy.turns import Answer, Ask, Turn
from server.recording.episode import EPISODE_KEY, Episode, hash_of
from server.recording.replay import find_recorded
from server.recording.tokens import digest


@dataclass(frozen=True, slots=True)
class Call:
    """What a request says beside its body."""

    key: str
    """The API key, empty where there is none."""
    named: str | None
    """The episode that the URL or the header names."""
    retry: bool
    """The client sends it again (OpenAI's and Anthropic's SDKs say so)."""
    idempotency_key: str | None
    trains: bool
    """False where the caller forbids training on it."""

    @property
    def unnamed(self) -> bool:
        """The caller knows nothing of episodes."""
        return self.named is None and not self.key.startswith(EPISODE_KEY)


def _call(request: Request, authorization: Annotated[str | None, Header()] = None,
          x_api_key: Annotated[str | None, Header()] = None, x_episode_id: Annotated[str | None, Header()] = None,
          x_stainless_retry_count: Annotated[str | None, Header()] = None,
          idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
          x_no_train: Annotated[str | None, Header()] = None) -> Call:
    scheme, _, key = (authorization or "").partition(" ")
    return Call(
        key=key if scheme.lower() == "bearer" else x_api_key or "",
        named=request.path_params.get("episode_id") or x_episode_id,
        retry=(x_stainless_retry_count or "0") != "0", idempotency_key=idempotency_key,
        trains=(x_no_train or "").lower() not in ("1", "true", "yes"))


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
        return {"x-episode-id": self.turns[0].episode_id, "x-turn-id": ",".join(turn.id for turn in self.turns),
                "x-policy-version": str(self.turns[0].version)}

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
    ask = body.ask(parts.engine.context_tokens, owner=hash_of(call.key), digest=digest(body.model_dump(mode="json")),
                   idempotency_key=call.idempotency_key)
    named = await find_episode(parts.episodes, named=call.named, key=call.key, messages=ask.messages, tools=ask.tools)
    turns = await _sent_again(parts, call, ask, named) or await _begin(parts, call, body, ask, named)
    return Conversation(parts.pointers.name, turns)


async def _sent_again(parts: State, call: Call, ask: Ask, named: str | None) -> list[Turn]:
    """Return the turns that answer, or have answered, this very request of this caller."""
    if not call.retry and call.idempotency_key is None:
        return []
    if turns := parts.turns.in_progress(ask):
        return turns
    return parts.turns.again(await asyncio.to_thread(
        find_recorded, parts.database, digest=ask.digest, key=call.idempotency_key, owner=ask.owner,
        episode_id=None if call.unnamed else named))


async def _begin(parts: State, call: Call, body: ChatRequest, ask: Ask, named: str | None) -> list[Turn]:
    """Take new turns, in the named or found episode or in a new one."""
    episode = await parts.episodes.get(named) if named is not None else await _open_live(parts, call, body, ask)
    if not call.trains:
        await parts.episodes.never_train(episode)
    version = parts.pointers.for_episode(episode, body.model, parts.engine)
    try:
        return parts.turns.begin(episode, ask, version)
    except HorizonReached:
        if not episode.answering:  # Its last turns may still be on their way into the record.
            await parts.episodes.end(episode, "truncated", reason="horizon")
        if not call.unnamed:
            raise
    # An agent that knows nothing of episodes goes on talking, in the next one.
    episode = await _open_live(parts, call, body, ask)
    return parts.turns.begin(episode, ask, episode.policy_version)


async def _open_live(parts: State, call: Call, body: ChatRequest, ask: Ask) -> Episode:
    """Open an episode for a conversation that belongs to none, if it can be answered at all."""
    version = parts.pointers.resolve(body.model, parts.engine)
    parts.turns.check(ask)
    episode, _ = await parts.episodes.open(
        EpisodeOpen(trainable=call.trains), policy_version=version, owner_hash=ask.owner,
        horizon=parts.settings.default_horizon)
    return episode
