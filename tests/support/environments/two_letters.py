"""A game of several turns for a tiny model with random weights: begin two answers with a letter."""

from __future__ import annotations

import random
import string
from typing import Any

from env_adapters.protocol import Reset, Transition
from env_adapters.simple import SimpleSpec

WANTED = 2
"""Right answers that end an episode."""


class TwoLetters:
    """An episode of any number of turns: the fewer it takes, the higher its reward."""

    def reset(self, task: str, seed: int) -> Reset:
        self._task, self._right = task, 0
        return Reset([{"role": "user", "content": f"Task {task}. Say a letter."}])

    def step(self, text: str) -> Transition:
        right = text[:1] != "" and text[0] in string.ascii_letters
        self._right += right
        won = self._right == WANTED
        return Transition(f"{self._right} of {WANTED}.", 0.5 * right - 0.125, won, success=won)

    def oracle(self) -> str:
        return "a"

    def random(self, rng: random.Random) -> str:
        return rng.choice(string.printable)

    def close(self) -> None:
        return None


def make_spec(**_: Any) -> SimpleSpec:
    return SimpleSpec(
        "two-letters",
        "Begin two answers with a letter.",
        TwoLetters,
        isolation="inline",
        lists={split: [f"{split}/{number}" for number in range(24)] for split in ("train", "test")},
    )
