"""From a chat request to the turns that answer it: which episode, which version, new or retried (steps 1 to 4).

Every dialect passes through here: `chat.py` passes OpenAI's chat requests on unchanged, the others translate theirs. A
call belongs to the episode named by header, URL or the episode's own key, or else to the episode whose recorded
conversation it continues.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from server import heavy
from server.api.dialects.answering import Conversation
from server.api.dialects.call import Call
from server.api.dialects.chat_request import ChatRequest
from server.api.dialects.hints import read_hints
from server.api.services import service
from server.engines.protocol import Engine
from server.errors import BadRequest, Conflict, HorizonReached, NotFound
from server.recording.conversation import Past, read_answers, read_conversation
from server.recording.episodes import Episodes
from server.recording.idle import read_ended
from server.recording.matching.matcher import Match
from server.recording.matching.talk import Talk
from server.recording.prompts import with_prefill
from server.recording.replay import find_recorded
from server.recording.turn import Turn
from server.recording.turn_request import TurnRequest
from server.recording.turns import Turns
from server.rendering.render import Renderer
from server.rendering.tokenizer import Tokenizer
from server.store.database import Database, new_id
from server.versions.residency import Residency
from server.versions.routing import Pointers
from server.versions.shadow import Shadow
from upturn.wire import EpisodeOpen

ENDED = "episode_ended"
"""Code of the error for an episode that takes no more turns."""
THINKING_SWITCHES = frozenset({"enable_thinking", "thinking"})
"""Template options that clients send to every model, whether it has the switch or not."""


@dataclass(frozen=True, slots=True)
class Conversations:
    """The service behind all dialects: answers requests and reads past turns."""

    database: Database
    engine: Engine
    renderer: Renderer
    pointers: Pointers
    residency: Residency
    episodes: Episodes
    turns: Turns
    shadow: Shadow
    default_horizon: int

    @property
    def policy(self) -> str:
        """The policy's name."""
        return self.pointers.name

    @property
    def tokenizer(self) -> Tokenizer:
        """The policy's tokenizer."""
        return self.renderer.tokenizer

    async def begin(self, call: Call, body: ChatRequest, warnings: Sequence[str] = ()) -> Conversation:
        """Start answering a request, or find the answers to an earlier copy of it.

        Args:
            call: the request's metadata.
            body: the request.
            warnings: what of it has no effect.

        Raises:
            UpturnError: the request is wrong, its episode takes no more turns, or the server cannot answer now.
                Nothing was recorded.
        """
        weight = call.weight(len(body.messages))
        request, talk, ignored = await heavy.run(weight, lambda: self._read(call, body, weight))
        self.turns.check_length(request)
        async with self.turns.beginning(request):
            turns = await self._retried(call, request, ids=bool(body.return_token_ids))
            if not turns:
                turns = await self._take_turns(call, self.pointers.own_name(body.model), request, talk)
                self.shadow.offer(turns)
        return Conversation(self.policy, body.model, turns, call, request.whole, (*warnings, *ignored))

    async def require(self, model: str) -> None:
        """Make sure that a model can serve, and load its version if necessary.

        Raises:
            NotFound: there is no such policy or version.
            Unavailable: no other version can be loaded now.
        """
        await self.residency.load_on_demand(self.pointers.own_name(model))
        self.pointers.resolve(model, self.engine)

    async def prompt_ids(self, call: Call, body: ChatRequest) -> list[int]:
        """Return [T] the ids of a request's prompt; nothing is sampled or recorded.

        Raises:
            BadRequest: the request is wrong.
        """

        def render() -> list[int]:
            request, _ = self._known_options(body.turn_request(self.engine.context_tokens, owner="", digest=""))
            ids = self.renderer.prompt(request.messages, request.tools, request.template_options)
            return with_prefill(self.renderer, request, ids)

        return await heavy.run(call.weight(len(body.messages)), render)

    async def past(self, call: Call, turn_id: str) -> Past | None:
        """Return a recorded turn of the caller with the conversation before it; None if the caller has no such turn."""
        return await asyncio.to_thread(
            read_conversation, self.database, turn_id, owner=call.owner, episode_id=call.named
        )

    async def recorded_answers(self, call: Call, turn_ids: set[str]) -> dict[str, dict[str, Any]]:
        """Return the caller's recorded answers by turn; turns that are not the caller's are absent."""
        return await asyncio.to_thread(read_answers, self.database, turn_ids, owner=call.owner, episode_id=call.named)

    async def hide(self, call: Call, turn_id: str) -> bool:
        """Hide a recorded turn of the caller and keep it from training; return whether there was one."""
        return await self.turns.hide(turn_id, owner=call.owner, episode_id=call.named)

    def _known_options(self, request: TurnRequest) -> tuple[TurnRequest, list[str]]:
        """Return the request without a switch for thoughts that the model lacks, and a warning that it had one."""
        lacking = sorted((request.template_options.keys() & THINKING_SWITCHES) - self.renderer.options)
        if not lacking:
            return request, []
        kept = {name: value for name, value in request.template_options.items() if name not in lacking}
        return replace(request, template_options=kept), [f"this model does not have {', '.join(lacking)}"]

    def _read(self, call: Call, body: ChatRequest, weight: int) -> tuple[TurnRequest, Talk, list[str]]:
        """Return the request, which its digest identifies, its conversation, and what of it has no effect."""
        hints = read_hints(call.headers, {**(body.model_extra or {}), "metadata": body.metadata}, call.returned)
        try:
            asked = body.model_dump_json()
            digest = hashlib.sha256(f"{asked}\n{call.named}\n{hints}".encode()).hexdigest()
        except ValueError as error:  # A lone surrogate, or hundreds of levels of nesting.
            raise BadRequest("the body contains a value that JSON cannot represent") from error
        request, ignored = self._known_options(
            body.turn_request(
                self.engine.context_tokens,
                owner=call.owner,
                digest=digest,
                idempotency_key=call.idempotency_key,
                weight=weight,
            )
        )
        talk = Talk.of(request.messages, request.frame, call.owner, hints)
        return replace(request, retry=call.retry, talk=talk), talk, ignored

    async def _retried(self, call: Call, request: TurnRequest, *, ids: bool) -> list[Turn]:
        """Return the turns, recorded or in progress, of an earlier copy of this request by the same caller."""
        if not call.retry and call.idempotency_key is None:
            return []
        if turns := self.turns.in_progress(request, call.named):
            return turns
        return self.turns.again(
            await asyncio.to_thread(
                find_recorded,
                self.database,
                digest=request.digest,
                key=call.idempotency_key,
                owner=request.owner,
                episode_id=call.named,
                prompts=ids,
            ),
            request.prefill,
        )

    async def _take_turns(self, call: Call, model: str, request: TurnRequest, talk: Talk) -> list[Turn]:
        """Start new turns in the named episode, in the episode of this conversation, or in a new one."""
        if call.named is not None:
            return await self._in_named(call, model, request, talk, call.named)
        matcher = self.episodes.matcher
        match = await matcher.find(talk)
        try:
            turns = await self._in_matched(call, model, request, talk, match)
        except BaseException:
            matcher.failed(talk)
            raise
        turns[0].done.add_done_callback(
            lambda done: matcher.failed(talk) if done.cancelled() or done.exception() else matcher.answered(talk)
        )
        return turns

    async def _in_named(self, call: Call, model: str, request: TurnRequest, talk: Talk, episode_id: str) -> list[Turn]:
        """Start turns in the episode that a request names, or in the one after it if it was closed as idle."""
        try:
            return await self._in_episode(call, model, request, episode_id)
        except Conflict as error:
            await self.episodes.settled(episode_id)
            ended = await asyncio.to_thread(read_ended, self.database, episode_id)
            if error.code != ENDED or ended is None or not ended.idle:
                raise
        if ended.successor is not None:
            return await self._in_episode(call, model, request, ended.successor)
        return await self._in_new_episode(call, model, request, talk, episode_id)

    async def _in_matched(self, call: Call, model: str, request: TurnRequest, talk: Talk, match: Match) -> list[Turn]:
        """Start turns in the episode of a conversation; if there is none, or it takes no more turns, in a new one."""
        if match.episode_id is None:
            return await self._in_new_episode(call, model, request, talk, match.continues)
        try:
            return await self._in_episode(call, model, request, match.episode_id)
        except HorizonReached:
            pass
        except (Conflict, NotFound) as error:  # It has just ended, or was erased.
            if error.code not in (ENDED, "episode_not_found"):
                raise
        return await self._in_new_episode(call, model, request, talk, match.episode_id)

    async def _in_episode(self, call: Call, model: str, request: TurnRequest, episode_id: str) -> list[Turn]:
        """Start turns in an open episode."""
        episode = await self.episodes.get(episode_id)
        if not call.trains:
            await self.episodes.never_train(episode)
        await self.residency.load_on_demand(model, episode.policy_version)
        version = self.pointers.for_episode(episode, model, self.engine)
        try:
            return await self.turns.begin(episode, request, version)
        except HorizonReached:
            if not episode.answering:  # Its last turns may still be on their way to the database.
                await self.episodes.end(episode, "truncated", reason="horizon")
            raise

    async def _in_new_episode(
        self, call: Call, model: str, request: TurnRequest, talk: Talk, continues: str | None
    ) -> list[Turn]:
        """Check that the request can be answered, open an episode for it, and start its turns.

        Args:
            call: the request's metadata.
            model: the name by which it calls the policy.
            request: the request.
            talk: its conversation.
            continues: the ended episode that the new one continues.
        """
        await self.residency.load_on_demand(model)
        episode_id = new_id("ep")
        before = None if continues is None else await asyncio.to_thread(read_ended, self.database, continues)
        owner = request.owner if before is None else before.owner or request.owner
        version = self.pointers.for_new_episode(model, self.engine, episode_id=episode_id, owner_hash=owner)
        ids = await self.turns.check(request)
        if call.named is None and (other := self.episodes.matcher.open_now(talk)) not in (None, continues):
            return await self._in_matched(call, model, request, talk, Match(other))  # Opened during the check.
        episode, _ = await self.episodes.open(
            EpisodeOpen(
                trainable=call.trains and (before is None or before.trainable),
                metadata={} if before is None else before.metadata,
            ),
            policy_version=version,
            owner_hash=owner,
            horizon=self.default_horizon if before is None else before.horizon,
            episode_id=episode_id,
            conversation_key=talk.key,
            continues=None if before is None else continues,
        )
        self.episodes.matcher.opened(talk, episode_id)
        if not request.whole:  # A stream names its episode before its turn is durable.
            episode.begin_writing()
        return await self.turns.begin(episode, request, version, ids)


ConversationsOf = Annotated[Conversations, service(Conversations)]
