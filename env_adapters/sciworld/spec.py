"""ScienceWorld (arXiv 2203.07540): elementary science by text commands, in a house with ten rooms.

The simulator is the package `scienceworld` (Apache-2.0), a Java program. Its Python part is not used, since it starts a
process per instance and lists all valid actions after each step. This module holds the splits and the tool; `tasks.py`
lists the tasks (a type and a variation), `game.py` plays, `java.py` runs the processes.
"""

from __future__ import annotations

from typing import Any

from env_adapters.protocol import EnvironmentMissing, Isolation, UnknownTask
from env_adapters.sciworld import java as sciworld_java
from env_adapters.sciworld.forms import ACTIONS
from env_adapters.sciworld.game import SciWorld
from env_adapters.sciworld.tasks import splits_by_task

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "act",
            "description": f"Do one action: {ACTIONS}; or a number of a list of choices.",
            "parameters": {
                "type": "object",
                "additionalProperties": False,
                "required": ["action"],
                "properties": {"action": {"type": "string"}},
            },
        },
    }
]


class ScienceWorld:
    """All 7207 variations of the 30 types."""

    name = "sciworld"
    description = "Do an elementary science task, such as boiling water, by text commands in a house."
    isolation: Isolation = "host"
    step_timeout_s = 120.0
    tools = TOOLS

    def splits(self) -> list[str]:
        """Return the four disjoint splits. A fifth of every type, chosen by a hash, is for testing.

        `train` and `test` have the 23 types of the paper, `more_train` and `more_test` the other seven.
        """
        return ["train", "test", "more_train", "more_test"]

    def tasks(self, split: str) -> list[str]:
        """Return names such as `find-animal/12` (type, variation)."""
        if split not in self.splits():
            raise UnknownTask(f"ScienceWorld has no split {split!r}; it has {', '.join(self.splits())}")
        return [task for task, its_split in splits_by_task().items() if its_split == split]

    def missing(self) -> str | None:
        """Return the commands that install what is missing, or None."""
        return sciworld_java.missing()

    def text_of(self, name: str, arguments: dict[str, Any]) -> str:
        """Return a call of `act` as its action."""
        if name != "act":
            raise ValueError(f"ScienceWorld has no tool {name!r}; it has act")
        if set(arguments) != {"action"} or not isinstance(arguments["action"], str):
            raise ValueError(f"the arguments of act are {arguments!r}")
        return " ".join(arguments["action"].split())

    def make(self) -> SciWorld:
        """Make an instance. Its first reset starts a Java process if none has a free seat."""
        if (needs := self.missing()) is not None:
            raise EnvironmentMissing(needs)
        return SciWorld(self.text_of)


def make_spec() -> ScienceWorld:
    """Return the spec."""
    return ScienceWorld()
