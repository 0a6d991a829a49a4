"""A request's conversation in the forms in which the record may know it, and what a turn leaves there for the next."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from server.recording.matching.returned import turns_in
from server.recording.tokens import chain_hash, chain_hashes, rendered
from server.rendering.json_text import without_halves

_THOUGHTS = re.compile(r"<think>.*?(</think>|$)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Hints:
    """What a client says about a conversation outside its messages."""

    conversation: str | None = None
    """The client's own id of the conversation: all of its calls belong to one episode."""
    user: str = ""
    """Of whom the conversation is. It tells conversations apart, and does not join them."""
    group: str = ""
    """Other ids that calls of one conversation usually share, such as a cache key."""
    returned: tuple[str, ...] = ()
    """Ids of recorded turns, responses and items, the newest first."""


@dataclass(frozen=True, slots=True)
class End:
    """The end of a recorded conversation, by which its next request finds it."""

    exact: str
    """Hash of everything that was rendered, and of the client's hints."""
    loose: str
    """Hash of what a client seldom changes: no tools, system messages, thoughts, or text beside tool calls."""
    follows: str | None
    """The turn whose end this one continues."""
    ambiguous: bool
    """The episode was guessed among several, now or earlier."""


@dataclass(slots=True)
class Talk:
    """The conversation of one request."""

    owner: str
    """SHA-256 of the caller's key: only its own conversations are searched."""
    hints: Hints
    returned: dict[str, int]
    """Recorded turns that it names, the newest first, with the position of the answer that each of them is."""
    quoted: frozenset[str]
    """Those that only the text of an answer names."""
    answers: list[int]
    """Positions of the assistant's messages."""
    exact: list[str]
    """One hash per message, of the conversation up to and including it."""
    loose: list[str]
    texts: dict[int, str]
    """Texts of the assistant's messages without calls, by position, without white space and thoughts."""
    follows: str | None = None
    """The turn that it was found to continue."""
    ambiguous: bool = False

    @classmethod
    def of(cls, messages: Sequence[dict[str, Any]], frame: Sequence[dict[str, Any]], owner: str, hints: Hints) -> Talk:
        """Return the conversation of a request."""
        start = _hash("", owner, hints.user)
        return cls(
            owner,
            hints,
            *turns_in(messages, hints.returned),
            [position for position, message in enumerate(messages) if message.get("role") == "assistant"],
            [_hash(owner, hints.user, hints.group, chain) for chain in chain_hashes(messages, frame)],
            list(accumulate(messages, _loose, initial=start))[1:],
            {
                position: text_of(message)
                for position, message in enumerate(messages)
                if message.get("role") == "assistant" and not message.get("tool_calls")
            },
        )

    @property
    def key(self) -> str | None:
        """Hash of the client's id of the conversation, or None if it sends none."""
        return None if self.hints.conversation is None else _hash(self.owner, self.hints.conversation)

    def ends_with(self, position: int, answer: dict[str, Any]) -> list[str]:
        """Return the loose hash of the conversation before a position, ended by another answer; none at its start."""
        return [_loose(self.loose[position - 1], answer)] if position else []

    def end(self, before: str, answer: dict[str, Any], extends: str | None) -> End:
        """Return the end of the conversation with an answer.

        Args:
            before: chain hash of its messages.
            answer: the answer.
            extends: the turn whose tokens the prompt extends, if any.
        """
        exact = _hash(self.owner, self.hints.user, self.hints.group, chain_hash(before, answer))
        return End(exact, _loose(self.loose[-1], answer), self.follows or extends, self.ambiguous)


def _loose(before: str, message: dict[str, Any]) -> str:
    """Return the loose hash of a conversation that ends with `message`."""
    role = message.get("role")
    if role == "system":
        return before
    kept = rendered(message)
    if calls := kept.get("calls"):
        return _hash(before, "calls", json.dumps(calls, sort_keys=True, ensure_ascii=False))
    return _hash(before, str(role), text_of(message))


def text_of(message: dict[str, Any]) -> str:
    """Return the text of a message without white space, and without the thoughts of an answer."""
    text = str(rendered(message)["content"])
    return "".join((_THOUGHTS.sub("", text) if message.get("role") == "assistant" else text).split())


def _hash(*parts: str) -> str:
    return hashlib.blake2b(without_halves("\n".join(parts)).encode(), digest_size=16).hexdigest()
