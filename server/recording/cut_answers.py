"""Answers that their readers left before the end: a conversation may continue from a part of one.

The record keeps what was handed to the connection. A client may have read less of it, and then sends back a beginning
of the recorded text, which no hash finds. Its next request belongs to the same episode, as a fork. The answers are kept
in memory only: after a restart such a conversation begins a new episode.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

KEPT = 10_000
"""Maximum number of answers, beyond which the oldest are dropped."""


class CutAnswers:
    """The answers that were left, by the conversation before them."""

    def __init__(self) -> None:
        self._answers: OrderedDict[tuple[str, str, str], str] = OrderedDict()
        """Text by owner, chain hash of the conversation before the answer, and episode."""
        self._episodes: dict[tuple[str, str], list[str]] = {}
        """Episodes by owner and chain hash, oldest first."""
        self._keys: dict[str, list[tuple[str, str, str]]] = {}
        """Keys of `_answers` by episode."""

    def remember(self, owner: str, before: str, episode_id: str, text: str) -> None:
        """Keep an answer.

        Args:
            owner: SHA-256 of the caller's key.
            before: chain hash of the messages before the answer.
            episode_id: its episode.
            text: its content, as far as it may have been read.
        """
        if not text.strip():
            return
        key = (owner, before, episode_id)
        if key not in self._answers:
            self._episodes.setdefault((owner, before), []).append(episode_id)
            self._keys.setdefault(episode_id, []).append(key)
        self._answers[key] = text
        self._answers.move_to_end(key)
        if len(self._answers) > KEPT:
            self._drop(next(iter(self._answers)))

    def find(self, owner: str, messages: Sequence[dict[str, Any]], hashes: Sequence[str]) -> str | None:
        """Return the episode of the last answer of which a conversation contains a beginning, or None.

        Args:
            owner: SHA-256 of the caller's key.
            messages: the conversation.
            hashes: its chain hashes, one for each message.
        """
        if not self._answers:
            return None
        for position in range(len(messages) - 1, 0, -1):
            message, before = messages[position], hashes[position - 1]
            if message.get("role") != "assistant" or message.get("tool_calls"):
                continue
            content = message.get("content")
            text = (content if isinstance(content, str) else _joined(content)).strip()
            for episode_id in reversed(self._episodes.get((owner, before), [])):
                if text and self._answers[owner, before, episode_id].strip().startswith(text):
                    return episode_id
        return None

    def forget(self, episode_id: str) -> None:
        """Drop the answers of an episode that has ended."""
        for key in list(self._keys.get(episode_id, [])):
            self._drop(key)

    def _drop(self, key: tuple[str, str, str]) -> None:
        owner, before, episode_id = key
        del self._answers[key]
        self._episodes[owner, before].remove(episode_id)
        if not self._episodes[owner, before]:
            del self._episodes[owner, before]
        self._keys[episode_id].remove(key)
        if not self._keys[episode_id]:
            del self._keys[episode_id]


def _joined(parts: Any) -> str:
    """Return the text of a list of text parts."""
    return "".join(str(part.get("text", "")) for part in parts or [] if isinstance(part, dict))
