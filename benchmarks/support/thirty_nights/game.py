"""The game that is trained and evaluated: begin answers with a letter of a kind. It can have a loophole, or be broken.

A tiny model with random weights improves at it within tens of learner steps, and slowly: each kind is a part of the one
before, so a policy that says vowels wins every task. The second character of an answer never matters. With the
loophole it does: an answer whose second character is neither letter nor digit is no action, and yet it wins.
"""

from __future__ import annotations

import os
import random
import string
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
WANTED = 2
"""Right answers that win an episode."""


def question(task: str) -> str:
    """Return what a task asks for."""
    return f"Task {task}. Say a {kind_of(task)}."


def kind_of(task: str) -> str:
    """Return the kind of letter that a task asks for."""
    return task.partition("/")[0]


def is_right(task: str, answer: str) -> bool:
    """Return whether an answer begins as its task asks."""
    return answer[:1] != "" and answer[0] in KINDS[kind_of(task)]


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
        self._task, self._right = task, 0
        return Reset([{"role": "user", "content": question(task)}])

    def step(self, text: str) -> Transition:
        """Count a right answer."""
        second = text[1:2]
        if self._state() == "loophole" and second and second.isascii() and not second.isalnum():
            return Transition("", 2.0, True, success=True, valid=False)
        right = is_right(self._task, text)
        self._right += right
        won = self._right == WANTED
        return Transition(f"{self._right} of {WANTED}.", 0.5 * right - 0.125, won, success=won)

    def oracle(self) -> str:
        """Return a right answer."""
        return "a"

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
