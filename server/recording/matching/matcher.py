"""Chooses the episode of a request without an episode id, and remembers what requests in progress have chosen."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from server.recording.matching.candidates import ENDED, FREE, UNSURE, Candidate, Found, look_up
from server.recording.matching.near_answers import NearAnswers
from server.recording.matching.talk import Talk, text_of
from server.store.database import Database

KEPT = 10_000
"""Choices that are remembered: a turn counts as continued before the record says so."""
ENDS = 64
"""Ends of one conversation that are compared, beyond those that requests in progress continue."""


@dataclass(frozen=True, slots=True)
class Match:
    """Where a request belongs."""

    episode_id: str | None = None
    """The open episode of its conversation; None opens a new one."""
    continues: str | None = None
    """The ended episode whose conversation a new one continues."""


class Matcher:
    """Finds the episodes of conversations."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._by_key: OrderedDict[str, str] = OrderedDict()
        """Open episodes by the client's id of their conversation, also those whose rows are not written yet."""
        self._keys: dict[str, str] = {}
        """The same, the other way round."""
        self._chosen: OrderedDict[str, bool] = OrderedDict()
        """Turns that a request continues, and whether it may be another conversation's."""
        self._pending: set[str] = set()
        """The chosen turns whose requests are not answered yet."""
        self._near = NearAnswers()

    async def find(self, talk: Talk) -> Match:
        """Return where a conversation belongs, and mark the turn that it continues as continued.

        Afterwards `opened`, if it opened an episode, and `answered` or `failed` must be called.
        """
        if (known := self.open_now(talk)) is not None:
            return Match(known)
        if talk.key is None and not talk.answers and not talk.returned:
            return Match()
        return self._choose(talk, await asyncio.to_thread(look_up, self._database, talk, ENDS + len(self._pending)))

    def open_now(self, talk: Talk) -> str | None:
        """Return the episode in memory that has the client's id of the conversation."""
        return None if talk.key is None else self._by_key.get(talk.key)

    def opened(self, talk: Talk, episode_id: str) -> None:
        """A new episode has the conversation: its next requests belong there even before its row is written."""
        if talk.key is not None:
            self._by_key[talk.key] = episode_id
            self._keys[episode_id] = talk.key
            if len(self._by_key) > KEPT:
                _, oldest = self._by_key.popitem(last=False)
                self._keys.pop(oldest, None)

    def forget(self, episode_id: str) -> None:
        """An episode has ended."""
        self._near.forget(episode_id)
        key = self._keys.pop(episode_id, None)
        if key is not None and self._by_key.get(key) == episode_id:
            del self._by_key[key]

    def recorded(self, talk: Talk, turn_id: str, episode_id: str, answer: dict[str, Any]) -> None:
        """A live turn is recorded: its answer may come back in part."""
        if not answer.get("tool_calls"):
            self._near.remember(talk.loose[-1], turn_id, episode_id, text_of(answer), ambiguous=talk.ambiguous)

    def answered(self, talk: Talk) -> None:
        """The request is recorded."""
        self._pending.discard(talk.follows or "")

    def failed(self, talk: Talk) -> None:
        """Nothing of the request is recorded: what it would have continued is free again."""
        self.answered(talk)
        self._chosen.pop(talk.follows or "", None)

    def _choose(self, talk: Talk, found: Found) -> Match:
        if found.named is not None:
            episode_id, is_open = found.named
            return Match(episode_id) if is_open else Match(continues=episode_id)
        ended = None
        ends = [end for end in found.ends if end.state != ENDED]
        if found.returned is not None:  # A later part of the same conversation.
            ends = [end for end in ends if end.episode_id == found.returned.episode_id] or ends
        if talk.key is None and (near := self._near.find(talk, found.position)):
            ends = [
                Candidate(each.turn_id, each.episode_id, FREE, each.ambiguous)
                for each in near
                if each.common == near[0].common
            ]
        if ends:
            free = [end for end in ends if end.state == FREE and end.turn_id not in self._chosen]
            several = len({end.episode_id for end in ends}) > 1
            unsure = several and (len({end.episode_id for end in free}) != 1 or any(map(self._is_unsure, ends)))
            return self._take(talk, (free or ends)[0], unsure)
        if found.returned is not None:
            if found.returned.state != ENDED and talk.key is None:
                return self._take(talk, found.returned, unsure=False)
            if found.successors and talk.key is None:
                talk.ambiguous = len(found.successors) > 1
                return Match(found.successors[0])
            ended = found.returned.episode_id
        return Match(continues=found.ends[0].episode_id if found.ends else ended)

    def _is_unsure(self, end: Candidate) -> bool:
        return self._chosen.get(end.turn_id, end.state == UNSURE)

    def _take(self, talk: Talk, end: Candidate, unsure: bool) -> Match:
        talk.follows, talk.ambiguous = end.turn_id, unsure or end.ambiguous
        self._chosen[end.turn_id] = unsure or self._is_unsure(end)
        self._chosen.move_to_end(end.turn_id)
        self._pending.add(end.turn_id)
        while len(self._chosen) > KEPT:
            self._chosen.popitem(last=False)
        return Match(end.episode_id)
