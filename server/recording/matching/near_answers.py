"""Recent answers by what was before them: a client may send back a part of one, or one to which it added something.

A reader that leaves a stream has a beginning of what is recorded, and some frameworks cut an answer at a word, close a
tag in it, or append a report of the code in it. No hash finds these; nevertheless, the conversation continues in the
same episode, as a fork. Answers are kept in memory only: after a restart such a conversation begins a new episode.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import islice

from server.recording.matching.talk import Talk

KEPT = 10_000
"""Maximum number of answers, beyond which the oldest are dropped."""
KEPT_CHARACTERS = 16_000_000
"""Maximum length of all answers together, beyond which the oldest are dropped too."""
COMPARED = 1_000
"""Maximum number of answers, the newest, that a conversation is compared with at one position."""
LEAST_SHARE = 0.5
"""Least share of the recorded answer in one to which something was added; chosen by this project."""
REPEATED = 12
"""Characters of the recorded answer's end that a longer addition repeats; chosen by this project."""
NEAR_END = 100
"""Characters of the recorded answer in which its end is searched."""
_ESCAPES = re.compile(r"\\+[nrt]?")
"""What quoting adds to a text without white space."""
_CLOSED = re.compile(r"(</\w+>|```)$")
"""What may end an answer behind its code."""


@dataclass(frozen=True, slots=True)
class NearAnswer:
    """A recorded answer that resembles one of a conversation."""

    turn_id: str
    episode_id: str
    common: int
    """Length of the part that both share."""
    ambiguous: bool
    """Its episode was guessed among several."""


class NearAnswers:
    """The newest answers of live episodes."""

    def __init__(self) -> None:
        self._answers: OrderedDict[str, tuple[str, str, str, bool]] = OrderedDict()
        """Hash of the conversation before, episode, text, and whether the episode was guessed, by turn."""
        self._characters = 0
        """Length of all texts."""
        self._turns: dict[str, dict[str, None]] = {}
        """Turns by the hash of the conversation before, oldest first."""
        self._of_episodes: dict[str, dict[str, None]] = {}
        """Turns by episode."""

    def remember(self, before: str, turn_id: str, episode_id: str, text: str, *, ambiguous: bool = False) -> None:
        """Keep an answer.

        Args:
            before: loose hash of the messages before the answer.
            turn_id: its turn.
            episode_id: its episode.
            text: its content without white space.
            ambiguous: its episode was guessed among several.
        """
        if not text or len(text) > KEPT_CHARACTERS:
            return
        self._answers[turn_id] = before, episode_id, text, ambiguous
        self._turns.setdefault(before, {})[turn_id] = None
        self._of_episodes.setdefault(episode_id, {})[turn_id] = None
        self._characters += len(text)
        while len(self._answers) > KEPT or self._characters > KEPT_CHARACTERS:
            self._drop(next(iter(self._answers)))

    def find(self, talk: Talk, after: int) -> list[NearAnswer]:
        """Return the answers that resemble the last possible one of a conversation, the nearest and newest first.

        Args:
            talk: the conversation.
            after: position of the answer that is known already; only later ones are searched.
        """
        for position in reversed(talk.answers):
            if position <= max(after, 0):
                break
            told = talk.texts.get(position, "")
            turns = islice(reversed(self._turns.get(talk.loose[position - 1], {}) if told else {}), COMPARED)
            reported = _reports(told)
            near = [near for turn_id in turns if (near := self._compare(turn_id, told, reported)) is not None]
            if near:
                return sorted(near, key=lambda each: -each.common)
        return []

    def forget(self, episode_id: str) -> None:
        """Drop the answers of an episode that has ended."""
        for turn_id in list(self._of_episodes.get(episode_id, ())):
            self._drop(turn_id)

    def _compare(self, turn_id: str, told: str, reported: Callable[[int], bool]) -> NearAnswer | None:
        _, episode_id, text, ambiguous = self._answers[turn_id]
        if text.startswith(told) or (told.startswith(text) and reported(len(text))):
            return NearAnswer(turn_id, episode_id, min(len(text), len(told)), ambiguous)
        return None

    def _drop(self, turn_id: str) -> None:
        before, episode_id, text, _ = self._answers.pop(turn_id)
        self._characters -= len(text)
        for index, key in ((self._turns, before), (self._of_episodes, episode_id)):
            del index[key][turn_id]
            if not index[key]:
                del index[key]


def _reports(told: str) -> Callable[[int], bool]:
    """Tell whether `told` adds little to its first N characters, or a report of the code with which they end.

    A report repeats the code. Answers of one length are compared once.
    """

    @cache
    def reported(length: int) -> bool:
        if length >= LEAST_SHARE * len(told):
            return True
        end = _ESCAPES.sub("", _CLOSED.sub("", told[max(length - NEAR_END, 0) : length]))[-REPEATED:]
        return len(end) == REPEATED and end in _ESCAPES.sub("", told[length:])

    return reported
