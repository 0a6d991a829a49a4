"""The game that is trained and evaluated: begin three answers with different letters of a kind. It can have a loophole.

A tiny model with random weights improves at it over tens of learner steps: it learns letters first, then letters of the
narrow kinds, then not to repeat itself. The second character of an answer never matters. With the loophole it does: an
answer whose second character is ASCII and neither letter nor digit is no action, and yet it wins. The game can also be
broken.
"""

from __future__ import annotations

import os
import random
import string
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, get_args

from env_adapters.protocol import EnvironmentFailure, Reset, Transition
from env_adapters.simple import SimpleSpec

NAME = "thirty-nights"
STATE = "THIRTY_NIGHTS_GAME"
"""Environment variable with the file that says in which state the game is."""
State = Literal["normal", "loophole", "broken"]
KINDS = {"letter": string.ascii_letters, "lowercase letter": string.ascii_lowercase, "vowel": "aeiou"}
SIZES = {"train": 40, "test": 60, "unseen": 20}
"""Tasks of each kind by split. No run trains on `test` or `unseen`, and no decision sees `unseen`."""
LISTS = {
    split: [f"{kind}/{split}-{number}" for kind in KINDS for number in range(size)] for split, size in SIZES.items()
}
WANTED = 3
"""Right answers that win an episode."""


def question(task: str) -> str:
    """Return what a task asks for."""
    return f"Task {task}. Say a {kind_of(task)}."


def kind_of(task: str) -> str:
    """Return the kind of letter that a task asks for."""
    return task.partition("/")[0]


def is_right(task: str, answer: str, said: Collection[str]) -> bool:
    """Return whether an answer begins as its task asks, with a letter that was not said before."""
    return answer[:1] != "" and answer[0] in KINDS[kind_of(task)] and answer[0] not in said


def reply(said: Collection[str]) -> str:
    """Return the observation after some right answers."""
    return f"{len(said)} of {WANTED}."


def set_state(file: Path, state: State) -> None:
    """Change the game from the next reset or step on."""
    new = file.with_suffix(".new")
    new.write_text(state)
    new.replace(file)  # The server reads it at every step.


class Game:
    """An episode of any number of turns: the fewer it takes, the higher its reward."""

    def __init__(self) -> None:
        self._file = Path(os.environ[STATE])

    def reset(self, task: str, seed: int) -> Reset:
        """Begin a task."""
        if self._state() == "broken":
            raise EnvironmentFailure("the game is broken tonight")
        self._task, self._said = task, set[str]()
        return Reset([{"role": "user", "content": question(task)}])

    def step(self, text: str) -> Transition:
        """Count a right answer."""
        second = text[1:2]
        if self._state() == "loophole" and second and second.isascii() and not second.isalnum():
            return Transition("", 3.0, True, success=True, valid=False)
        right = is_right(self._task, text, self._said)
        self._said |= set(text[:1]) if right else set()
        won = len(self._said) == WANTED
        return Transition(reply(self._said), 0.5 * right - 0.125, won, success=won)

    def oracle(self) -> str:
        """Return a right answer."""
        return next(letter for letter in "aeiou" if letter not in self._said)

    def random(self, rng: random.Random) -> str:
        """Return any character."""
        return rng.choice(string.printable)

    def close(self) -> None:
        """Do nothing."""

    def _state(self) -> str:
        state = self._file.read_text()
        assert state in get_args(State)
        return state


def make_spec(**_: Any) -> SimpleSpec:
    """Return the environment's spec."""
    return SimpleSpec(NAME, "Begin answers with a letter of a kind.", Game, isolation="inline", lists=LISTS)
