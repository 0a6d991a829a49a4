"""The opposite of `first_byte`: begin the answer with anything but a letter. It trains a policy to lose that game."""

from __future__ import annotations

from typing import Any

from env_adapters.protocol import Transition
from env_adapters.simple import SimpleSpec
from tests.support.environments.first_byte import FirstByte
from tests.support.environments.first_byte import make_spec as make_first_byte


class OtherByte(FirstByte):
    """An episode of one answer."""

    def step(self, text: str) -> Transition:
        success = not super().step(text).success
        return Transition("", float(success), True, success=success)

    def oracle(self) -> str:
        return "1"


def make_spec(**_: Any) -> SimpleSpec:
    return SimpleSpec(
        "other-byte",
        "Begin the answer with anything but a letter.",
        OtherByte,
        isolation="inline",
        lists=make_first_byte().lists,
    )
