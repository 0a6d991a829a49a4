"""TextCraft: craft a Minecraft item by text commands (ADaPT, arXiv 2311.05772), with the rules of AgentGym's server.

This module holds the tasks and the tools; `recipes.py` reads the recipes, `game.py` plays. Two choices are this
project's: the splits, and a prompt with one way to make each item plus a few distractors (AgentGym lists every way,
which is several times longer).
"""

from __future__ import annotations

from typing import Any

from env_adapters.protocol import Isolation, UnknownTask
from env_adapters.splits import held_out
from env_adapters.textcraft.game import Game
from env_adapters.textcraft.recipes import load

TEST_SHARE = 0.2
_ITEM: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["item", "count"],
    "properties": {"item": {"type": "string"}, "count": {"type": "integer", "minimum": 1}},
}
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {"name": "get", "description": "Get an item that no command crafts.", "parameters": _ITEM},
    },
    {
        "type": "function",
        "function": {
            "name": "craft",
            "description": "Craft an item with the counts of its command.",
            "parameters": {
                "type": "object",
                "additionalProperties": False,
                "required": ["item", "count", "using"],
                "properties": {**_ITEM["properties"], "using": {"type": "array", "items": _ITEM, "minItems": 1}},
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "inventory",
            "description": "List what you carry.",
            "parameters": {"type": "object", "additionalProperties": False, "properties": {}},
        },
    },
]


class TextCraft:
    """All 544 goals that take at least one craft."""

    name = "textcraft"
    description = "Craft a Minecraft item out of base items with the commands get, craft and inventory."
    isolation: Isolation = "inline"
    step_timeout_s = 10.0
    tools = TOOLS

    def __init__(self) -> None:
        self._book = load()
        goals = sorted((depth, item) for item, depth in self._book.depth.items())
        self._tasks = {f"{depth}/{item.replace(' ', '_')}": item for depth, item in goals}
        self._test: set[str] = set()
        for wanted in {depth for depth, _ in goals}:
            names = [name for name in self._tasks if name.startswith(f"{wanted}/")]
            self._test |= held_out("textcraft", names, max(1, round(len(names) * TEST_SHARE)))

    def splits(self) -> list[str]:
        """Return the two disjoint splits. `test` has a fifth of the goals of each depth, chosen by a hash."""
        return ["train", "test"]

    def tasks(self, split: str) -> list[str]:
        """Return names such as `1/acacia_planks` (depth, goal), by depth, then by name."""
        if split not in self.splits():
            raise UnknownTask(f"TextCraft has no split {split!r}; it has train and test")
        return [name for name in self._tasks if (name in self._test) == (split == "test")]

    def missing(self) -> str | None:
        """Return None: the package `textcraft` is a dependency of this one."""
        return None

    def text_of(self, name: str, arguments: dict[str, Any]) -> str:
        """Return a tool call as the command it stands for."""
        try:
            if name == "get":
                return f"get {arguments['count']} {arguments['item']}"
            if name == "craft":
                using = ", ".join(f"{part['count']} {part['item']}" for part in arguments["using"])
                return f"craft {arguments['count']} {arguments['item']} using {using}"
            if name == "inventory":
                return "inventory"
        except (KeyError, TypeError) as error:
            raise ValueError(f"the arguments of {name} are {arguments!r}") from error
        raise ValueError(f"TextCraft has no tool {name!r}; it has get, craft and inventory")

    def make(self) -> Game:
        """Make an instance. All instances share the recipes."""
        return Game(self._book, self._tasks, self.text_of)


def make_spec() -> TextCraft:
    """Return the spec."""
    return TextCraft()
