"""A game that a tiny model with random weights learns in a few learner steps: begin the answer with a letter."""

from __future__ import annotations

import random
import string
from typing import Any

from env_adapters.protocol import Reset, Transition
from env_adapters.simple import SimpleSpec

LISTS = {split: [f"{split}/{number}" for number in range(24)] for split in ("train", "test")}


def begins_with_letter(text: str) -> bool:
    return text[:1] != "" and text[0] in string.ascii_letters


class FirstByte:
    """An episode of one answer."""

    def reset(self, task: str, seed: int) -> Reset:
        return Reset([{"role": "user", "content": "Say a letter."}])

    def step(self, text: str) -> Transition:
        right = begins_with_letter(text)
        return Transition("", float(right), True, success=right)

    def oracle(self) -> str:
        return "a"

    def random(self, rng: random.Random) -> str:
        return rng.choice(string.printable)

    def close(self) -> None:
        return None


def make_spec(**_: Any) -> SimpleSpec:
    return SimpleSpec("first-byte", "Begin the answer with a letter.", FirstByte, isolation="inline", lists=LISTS)
