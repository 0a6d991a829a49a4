"""A game of several turns for a tiny model with random weights: begin two answers with a letter."""

from __future__ import annotations

from typing import Any

from env_adapters.protocol import Reset, Transition
from env_adapters.simple import SimpleSpec
from tests.support.environments.first_byte import LISTS, FirstByte, begins_with_letter

WANTED = 2
"""Right answers that end an episode."""


class TwoLetters(FirstByte):
    """An episode of any number of turns: the fewer it takes, the higher its reward."""

    def reset(self, task: str, seed: int) -> Reset:
        self._task, self._right = task, 0
        return Reset([{"role": "user", "content": f"Task {task}. Say a letter."}])

    def step(self, text: str) -> Transition:
        right = begins_with_letter(text)
        self._right += right
        won = self._right == WANTED
        return Transition(f"{self._right} of {WANTED}.", 0.5 * right - 0.125, won, success=won)


def make_spec(**_: Any) -> SimpleSpec:
    return SimpleSpec("two-letters", "Begin two answers with a letter.", TwoLetters, isolation="inline", lists=LISTS)
