"""BabyAI: instructions in a grid world of rooms, doors and objects (arXiv 1810.08272), in AgentGym's 40 levels.

This module holds the tasks and the tools; `game.py` plays, `text.py` renders, `oracle.py` solves. A task is one map:
`GoToRedBall/17` is the map that minigrid (Apache-2.0), and AgentGym, make from seed 17 of that level.

Differences from AgentGym's server, chosen by this project: the goal keeps its order (`then`, `after you`); minigrid's
limit of primitive actions truncates an episode; every success earns 1, however slow; boxes can be opened, without which
KeyInBox is unwinnable; unwinnable maps are left out; and the splits.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any

from env_adapters.babyai.game import Game
from env_adapters.protocol import EnvironmentMissing, Isolation, UnknownTask
from env_adapters.splits import held_out
from upturn import packages

LEVELS = (
    "GoToRedBallGrey",
    "GoToRedBall",
    "GoToRedBallNoDists",
    "GoToObjS6",
    "GoToLocalS8N7",
    "GoToObjMazeS7",
    "GoToImpUnlock",
    "GoToSeqS5R2",
    "GoToRedBlueBall",
    "GoToDoor",
    "GoToObjDoor",
    "Open",
    "OpenRedDoor",
    "OpenDoorLoc",
    "OpenRedBlueDoorsDebug",
    "OpenDoorsOrderN4Debug",
    "Pickup",
    "UnblockPickup",
    "PickupLoc",
    "PickupDistDebug",
    "PickupAbove",
    "PutNextLocalS6N4",
    "PutNextS7N4Carrying",
    "Unlock",
    "UnlockLocalDist",
    "KeyInBox",
    "UnlockPickupDist",
    "BlockedUnlockPickup",
    "UnlockToUnlock",
    "ActionObjDoor",
    "FindObjS7",
    "KeyCorridorS6R3",
    "OneRoomS20",
    "MoveTwoAcrossS8N9",
    "SynthS5R2",
    "SynthLoc",
    "SynthSeq",
    "MiniBossLevel",
    "BossLevel",
    "BossLevelNoUnlock",
)
"""AgentGym's levels, in its order."""
UNWINNABLE: dict[str, tuple[int, ...]] = {"GoToImpUnlock": (6, 14)}
"""Seeds of unwinnable maps: the only key to the goal's room is locked inside it."""
TRAIN_SEEDS, TEST_SEEDS = 20, 5
"""Maps per level in each split, chosen by this project: in total close to AgentGym-RL's 810 and 90."""
_ARGUMENT = {"go_to": "thing", "pick_up": "thing", "go_through": "door", "toggle_and_go_through": "door"}
_TOOLS = {
    "turn_left": "Turn left.",
    "turn_right": "Turn right.",
    "move_forward": "Walk one step.",
    "go_to": "Walk up to something that you see and face it.",
    "pick_up": "Walk up to something that you see and pick it up.",
    "go_through": "Walk through an open door.",
    "toggle_and_go_through": "Open a closed or locked door and walk through.",
    "toggle": "Open or close the door, or open the box, in front of you.",
    "drop": "Put down what you carry.",
}


def _tool(name: str, description: str) -> dict[str, Any]:
    argument = _ARGUMENT.get(name)
    properties = {argument: {"type": "string", "description": "as listed, such as 'red ball 1'"}} if argument else {}
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "additionalProperties": False,
                "properties": properties,
                "required": list(properties),
            },
        },
    }


TOOLS = [_tool(name, description) for name, description in _TOOLS.items()]


class BabyAI:
    """All levels, 25 maps each."""

    name = "babyai"
    description = "Follow an instruction in a grid world: find, fetch and place things, open and unlock doors."
    isolation: Isolation = "host"
    step_timeout_s = 30.0
    tools = TOOLS

    def __init__(self) -> None:
        self._splits: dict[str, list[str]] = {"train": [], "test": []}
        for level in LEVELS:
            unwinnable = UNWINNABLE.get(level, ())
            seeds = [seed for seed in range(TRAIN_SEEDS + TEST_SEEDS + len(unwinnable)) if seed not in unwinnable]
            tasks = [f"{level}/{seed}" for seed in seeds[: TRAIN_SEEDS + TEST_SEEDS]]
            test = held_out("babyai", tasks, TEST_SEEDS)
            self._splits["test"] += [task for task in tasks if task in test]
            self._splits["train"] += [task for task in tasks if task not in test]
        self._tasks = frozenset(task for tasks in self._splits.values() for task in tasks)

    def missing(self) -> str | None:
        """Return the command that installs minigrid, or None if it is installed."""
        return None if importlib.util.find_spec("minigrid") else packages.command("minigrid")

    def text_of(self, name: str, arguments: dict[str, Any]) -> str:
        """Return a tool call as the action it stands for."""
        if name not in _TOOLS:
            raise ValueError(f"BabyAI has no tool {name!r}; it has {', '.join(_TOOLS)}")
        wanted = _ARGUMENT.get(name)
        what = arguments.get(wanted) if wanted else ""
        if set(arguments) - {wanted} or not isinstance(what, str) or (wanted and not what.strip()):
            raise ValueError(f"the arguments of {name} are {arguments!r}")
        return f"{name.replace('_', ' ')} {' '.join(what.split())}".strip()

    def splits(self) -> list[str]:
        """Return the two disjoint splits. `test` has 5 of each level's 25 maps, chosen by a hash."""
        return list(self._splits)

    def tasks(self, split: str) -> list[str]:
        """Return names such as `GoToRedBall/17` (level, minigrid's seed), in AgentGym's order of levels."""
        if split not in self._splits:
            raise UnknownTask(f"BabyAI has no split {split!r}; it has train and test")
        return list(self._splits[split])

    def make(self) -> Game:
        """Make an instance."""
        if command := self.missing():
            raise EnvironmentMissing(f"BabyAI needs the package minigrid: {command}")
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # minigrid's drawing library prints a greeting
        import minigrid  # noqa: F401  registers the levels
        from minigrid.envs.babyai.core import roomgrid_level

        vars(roomgrid_level)["print"] = _quiet
        return Game(self._tasks, self.text_of)


def _quiet(*_: object) -> None:
    """Replace `print` in minigrid's level generator, which reports every map that it rejects."""


def make_spec() -> BabyAI:
    """Return the spec."""
    return BabyAI()
