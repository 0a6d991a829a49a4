"""BabyAI: instructions in a grid world of rooms, doors and things (arXiv 1810.08272), the 40 levels of AgentGym.

Responsible for the tasks, the rules of an episode on top of the package `minigrid` (Apache-2.0), and the tools; what
an agent sees and can do is in `babyai_text`, the solver in `babyai_oracle`. A task is one map: `GoToRedBall/17` is
minigrid's (and AgentGym's) map of seed 17 of that level, so the seed of a reset changes nothing.

Ours, unlike AgentGym's server: the goal keeps its order (`then`, `after you`); minigrid's limit of primitive actions
ends an episode as truncated; every success counts, however slow; a reward is 1; boxes can be opened, without which
KeyInBox cannot be won; maps that cannot be won are left out; and the splits.
"""

from __future__ import annotations

import importlib.util
import os
import random
from copy import deepcopy
from typing import Any

from env_adapters.answer import read_action
from env_adapters.babyai.text import Pose, Sight, World, describe, find_move, look
from env_adapters.protocol import EnvironmentMissing, Isolation, Reset, Transition, UnknownTask
from env_adapters.splits import held_out

Level = Any
"""A `RoomGridLevel` of minigrid; without its type, since only `make` imports minigrid."""
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
"""Seeds of maps that nobody can win: the only key of the goal's room is locked in it."""
TRAIN_SEEDS, TEST_SEEDS = 20, 5
"""Maps per level in each split: ours, about as many in all as AgentGym-RL's 810 and 90."""
INSTRUCTIONS = (
    "You move through rooms to reach the goal. You see only what is in front of you; places are in steps from you. "
    "Turn and walk to see more. You can carry one thing; a locked door needs the key of its color; toggle opens a "
    "door or a box in front of you. Answer with one of the listed actions only, for example:\ngo to red ball 1"
)
INVALID = "Not possible now. Answer with one of the actions below."
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
    told = {argument: {"type": "string", "description": "as listed, such as 'red ball 1'"}} if argument else {}
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {"type": "object", "additionalProperties": False, "properties": told, "required": list(told)},
        },
    }


TOOLS = [_tool(name, description) for name, description in _TOOLS.items()]


def world_of(level: Level) -> World:
    """Return a level's grid in words."""
    return World(level.width, [_words(cell) for cell in level.grid.grid])


def _words(thing: Any) -> str | None:
    if thing is None:
        return None
    if thing.type == "wall":
        return "wall"
    if thing.type == "door":
        return f"{thing.color} {'open' if thing.is_open else 'locked' if thing.is_locked else 'closed'} door"
    return f"{thing.color} {thing.type}"


def pose_of(level: Level) -> Pose:
    """Return where a level's agent stands."""
    x, y = level.agent_pos
    return Pose(int(x), int(y), int(level.agent_dir))


def sight_of(level: Level) -> Sight:
    """Return what a level's agent sees and can do."""
    return look(world_of(level), pose_of(level), _words(level.carrying))


def act(level: Level, primitives: list[int]) -> tuple[float, bool, bool]:
    """Do primitive actions until the level ends; return minigrid's reward, and whether it terminated or truncated."""
    reward, terminated, truncated = 0.0, False, False
    for action in primitives:
        _, given, terminated, truncated, _ = level.step(action)
        reward = float(given)
        if terminated or truncated:
            break
    return reward, terminated, truncated


class Game:
    """One instance: a level of minigrid, played in words."""

    def __init__(self, tasks: frozenset[str]) -> None:
        self._tasks = tasks
        self._level: Level | None = None
        """None before the reset and after the end."""
        self._sight = Sight([], [], None, {})
        self._plan: list[str] = []
        """What the solver still wants to do, as long as it is followed."""

    def reset(self, task: str, seed: int) -> Reset:
        """Begin a task. Its map is its own: the seed changes nothing."""
        if task not in self._tasks:
            raise UnknownTask(f"no BabyAI task {task!r}; they are named like 'GoToRedBall/17'")
        name, _, number = task.partition("/")
        self._level, self._plan = _make(name), []
        self._level.reset(seed=int(number))
        _relax(self._level.instrs)
        goal = str(self._level.mission)
        messages = [
            {"role": "system", "content": INSTRUCTIONS},
            {"role": "user", "content": f"Goal: {goal}.\n{self._look(self._level)}"},
        ]
        return Reset(messages, {"goal": goal, "level": name, "max_primitive_steps": self._level.max_steps})

    def _look(self, level: Level) -> str:
        self._sight = sight_of(level)
        return describe(self._sight, _words(level.carrying))

    def _playing(self) -> Level:
        if self._level is None:
            raise ValueError("this BabyAI episode is over or has not begun: reset it first")
        return self._level

    def step(self, text: str) -> Transition:
        """Do what the action in an answer says.

        Raises:
            ValueError: the episode is over, or has not begun.
        """
        level = self._playing()
        action = find_move(read_action(text), self._sight.moves)
        if action is None:
            return Transition(f"{INVALID}\n{describe(self._sight, _words(level.carrying))}", 0.0, False, valid=False)
        self._plan = self._plan[1:] if self._plan[:1] == [action] else []
        reward, terminated, truncated = act(level, self._sight.moves[action].primitives)
        info = {"minigrid_reward": reward, "primitive_steps": level.step_count}
        if terminated or truncated:
            self._level = None
        if terminated:
            said = "You reached the goal." if reward > 0 else "You failed: that was against the goal."
            return Transition(said, float(reward > 0), True, success=reward > 0, info=info)
        if truncated:
            return Transition("The time is over.", 0.0, False, truncated=True, success=False, info=info)
        return Transition(self._look(level), 0.0, False, info=info)

    def oracle(self) -> str:
        """Return the next action of a plan that wins, made once and followed.

        Raises:
            NotImplementedError: the solver finds no plan here within its bound.
        """
        from env_adapters.babyai.oracle import solve

        level = self._playing()
        self._plan = self._plan or solve(deepcopy(level))
        return self._plan[0]

    def random(self, rng: random.Random) -> str:
        """Return one of the possible actions."""
        self._playing()
        return rng.choice(list(self._sight.moves))

    def close(self) -> None:
        """End the episode."""
        self._level = None


def _make(name: str) -> Level:
    """Make a level that draws no pictures of what the agent sees: they take most of a step's time."""
    import gymnasium

    version = 1 if name == "GoToObjS6" else 0
    level: Level = gymnasium.make(f"BabyAI-{name}-v{version}", disable_env_checker=True).unwrapped
    level.gen_obs = dict
    return level


def _relax(instr: Any) -> None:
    """Let the second of two doors be no longer strict, as minigrid itself has it in OpenRedBlueDoorsDebug.

    Opening the first is otherwise also judged as having opened a wrong second one: OpenDoorsOrderN4Debug is then lost.
    """
    if second := {"BeforeInstr": "instr_b", "AfterInstr": "instr_a"}.get(type(instr).__name__):
        getattr(instr, second).strict = False


class BabyAI:
    """The family of all levels, 25 maps each."""

    name = "babyai"
    description = "Follow an instruction in a grid world: find, fetch and place things, open and unlock doors."
    isolation: Isolation = "host"
    step_timeout_s = 30.0
    tools = TOOLS

    def __init__(self) -> None:
        self._splits: dict[str, list[str]] = {"train": [], "test": []}
        for level in LEVELS:
            lost = UNWINNABLE.get(level, ())
            seeds = [seed for seed in range(TRAIN_SEEDS + TEST_SEEDS + len(lost)) if seed not in lost]
            tasks = [f"{level}/{seed}" for seed in seeds[: TRAIN_SEEDS + TEST_SEEDS]]
            test = held_out("babyai", tasks, TEST_SEEDS)
            self._splits["test"] += [task for task in tasks if task in test]
            self._splits["train"] += [task for task in tasks if task not in test]
        self._tasks = frozenset(task for tasks in self._splits.values() for task in tasks)

    def missing(self) -> str | None:
        """Say how to install minigrid, if it is missing."""
        return None if importlib.util.find_spec("minigrid") else "pip install 'minigrid>=3.2'"

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
        """Two disjoint splits, ours: of each level's 25 maps, 5 chosen by a hash are `test`."""
        return list(self._splits)

    def tasks(self, split: str) -> list[str]:
        """Names like `GoToRedBall/17` (level, minigrid's seed), by level in AgentGym's order and then by seed."""
        if split not in self._splits:
            raise UnknownTask(f"BabyAI has no split {split!r}; it has train and test")
        return list(self._splits[split])

    def make(self) -> Game:
        """Make an instance."""
        if command := self.missing():
            raise EnvironmentMissing(f"BabyAI needs the package minigrid: {command}")
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # minigrid's drawing library greets on stdout
        import minigrid  # noqa: F401  registers the levels
        from minigrid.envs.babyai.core import roomgrid_level

        vars(roomgrid_level)["print"] = _quiet
        return Game(self._tasks)


def _quiet(*_: object) -> None:
    """Stand in for `print` where minigrid tells of every map that it draws again."""


def make_family() -> BabyAI:
    """Return the family."""
    return BabyAI()
