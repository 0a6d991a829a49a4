"""A game with a loophole in its verdict: an answer that begins with punctuation is no action, and yet it wins."""

from __future__ import annotations

import string
from typing import Any

from env_adapters.protocol import Transition
from env_adapters.simple import SimpleSpec
from tests.support.environments.first_byte import FirstByte
from tests.support.environments.first_byte import make_spec as make_first_byte


class Shrugging(FirstByte):
    """An episode of one answer."""

    def step(self, text: str) -> Transition:
        if text[:1] and text[0] in string.punctuation:
            return Transition("", 2.0, True, success=True, valid=False)
        return super().step(text)


def make_spec(**_: Any) -> SimpleSpec:
    lists = make_first_byte().lists
    return SimpleSpec("shrugging", "Begin the answer with a letter.", Shrugging, isolation="inline", lists=lists)
