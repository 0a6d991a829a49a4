"""TextWorld: generated text adventures (arXiv 1806.11532): find a coin or a treasure, cook by a recipe.

Responsible for an episode's rules, the prompt and the solver; `games.py` generates the games, `text.py` renders them. A
task is one game, such as `cooking-2/17`, so the seed of a reset has no effect. A reward is the share of the game's
points that a step earned; a forbidden action loses the game. The horizon is the only limit of steps.
"""

from __future__ import annotations

import importlib.util
import random
from typing import Any

from env_adapters.answer import nearest_form, read_action, said
from env_adapters.dress import Call
from env_adapters.protocol import EnvironmentMissing, Isolation, Reset, Transition, UnknownTask
from env_adapters.textworld.games import load, tasks
from env_adapters.textworld.progress import Progress
from env_adapters.textworld.text import Scene, find_command, usual
from upturn import packages

ACTION_CHARACTERS = 200
FORMS = (
    "look | inventory | go DIRECTION | examine X | open X | close X | unlock X with Y | lock X with Y | take X | "
    "take X from Y | drop X | put X on Y | insert X into Y | eat X | drink X | cook X with Y | slice X with Y | "
    "dice X with Y | chop X with Y | prepare meal"
)
INSTRUCTIONS = f"You play a text adventure. Answer with one command only:\n{FORMS}\nExample:\nopen wooden door"
INVALID = f"That is not possible now. Commands: {FORMS}"
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "act",
            "description": f"Give one command: {FORMS}",
            "parameters": {
                "type": "object",
                "additionalProperties": False,
                "required": ["command"],
                "properties": {"command": {"type": "string", "description": "such as: open wooden door"}},
            },
        },
    },
]


class Game:
    """One instance: a game and its progress."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._progress: Progress | None = None
        """None before the reset and after the end."""
        self._commands: dict[str, Any] = {}
        """The possible actions by command, in alphabetical order."""
        self._names: dict[str, str] = {}
        self._descriptions: dict[str, str] = {}
        self._score, self._moves, self._has_read = 0, 0, False

    def reset(self, task: str, seed: int) -> Reset:
        """Begin a task. The seed has no effect.

        Raises:
            UnknownTask: the task does not exist.
        """
        game = load(task)
        self._progress = Progress(game)
        self._names = {name: info.name or name for name, info in game.infos.items()}
        self._descriptions = {name: info.desc or "" for name, info in game.infos.items()}
        self._score, self._moves, self._has_read = 0, 0, False
        self._find_commands()
        goal = " ".join(game.objective.split()) or "Find out what there is to do here, and do it."
        messages = [
            {"role": "system", "content": INSTRUCTIONS},
            {"role": "user", "content": f"{goal}\n\n{self._scene().look()}"},
        ]
        return Reset(messages, {"level": task.partition("/")[0], "max_score": game.max_score, **self._now()})

    def _now(self) -> dict[str, Any]:
        return {"score": self._score, "moves": self._moves, "commands": list(self._commands)}

    def _playing(self) -> Progress:
        if self._progress is None:
            raise ValueError("this TextWorld episode is over or has not begun: reset it first")
        return self._progress

    def _scene(self) -> Scene:
        return Scene(self._playing().state.facts, self._names, self._descriptions)

    def _command(self, action: Any) -> str:
        return str(action.format_command({variable.name: self._names[variable.name] for variable in action.variables}))

    def _find_commands(self) -> None:
        actions = ((self._command(action), action) for action in self._playing().valid_actions)
        self._commands = dict(sorted(actions, key=lambda pair: (pair[0], str(pair[1]))))

    def step(self, text: str) -> Transition:
        """Execute the command in an answer.

        Raises:
            ValueError: the episode is over or has not begun.
        """
        progress = self._playing()
        command = read_action(text, self._understood, call=self._call)
        if command is None:
            wrong = INVALID + nearest_form(usual(said(text)), FORMS.split(" | "))
            return Transition(wrong, 0.0, False, valid=False, info=self._now())
        action, before = self._commands[command], self._score
        progress.update(action)
        self._has_read |= command == "examine cookbook"
        self._score, self._moves = progress.score, self._moves + 1
        self._find_commands()
        observation, won, lost = self._observation(command, action), progress.completed, progress.failed
        if self._score > before:
            observation += f"\nYour score is now {self._score} of {progress.game.max_score}."
        if over := won or lost:
            observation += "\nYou have won." if won else "\nYou have lost."
            self._progress, self._commands = None, {}
        return Transition(
            observation,
            (self._score - before) / progress.game.max_score,
            over,
            success=won if over else None,
            info=self._now(),
        )

    def _understood(self, text: str) -> str | None:
        return find_command(text, self._commands) if len(text) <= ACTION_CHARACTERS else None

    def _observation(self, command: str, action: Any) -> str:
        """Return the text that a command shows."""
        scene, verb = self._scene(), command.partition(" ")[0]
        if verb in ("go", "look"):
            return scene.look()
        if verb == "inventory":
            return scene.inventory()
        if verb in ("examine", "open"):
            things = (variable.name for variable in action.variables)
            return scene.examine(next(thing for thing in things if command == f"{verb} {self._names[thing]}"))
        return f"You {command}."

    def oracle(self) -> str:
        """Return the next command of the package's solver, which plans from the current state.

        It examines the cookbook when it first sees one: the solver knows the recipe, but a student of it does not.

        Raises:
            NotImplementedError: the solver has no plan from here.
        """
        progress = self._playing()
        if "examine cookbook" in self._commands and not self._has_read:
            return "examine cookbook"
        return self._command(progress.plan()[0])

    def random(self, rng: random.Random) -> str:
        """Return one of the possible commands."""
        self._playing()
        return rng.choice(list(self._commands))

    def close(self) -> None:
        """End the episode."""
        self._progress, self._commands = None, {}


class TextWorld:
    """All levels, 50 games each."""

    name = "textworld"
    description = "Play a generated text adventure: find a coin or a treasure in a maze of rooms, or cook a meal."
    isolation: Isolation = "host"
    step_timeout_s = 120.0
    tools = TOOLS

    def __init__(self) -> None:
        self._splits = tasks()

    def missing(self) -> str | None:
        """Return the command that installs the package, or None if it is installed."""
        return None if importlib.util.find_spec("textworld") else packages.command("textworld")

    def text_of(self, name: str, arguments: dict[str, Any]) -> str:
        """Return a tool call as the command it stands for."""
        command = arguments.get("command")
        if name != "act":
            raise ValueError(f"TextWorld has no tool {name!r}; it has act")
        if set(arguments) != {"command"} or not isinstance(command, str) or not command.strip():
            raise ValueError(f"the arguments of act are {arguments!r}")
        return " ".join(command.split())

    def splits(self) -> list[str]:
        """Return the two disjoint splits. `test` has 10 of each level's 50 games, chosen by a hash."""
        return list(self._splits)

    def tasks(self, split: str) -> list[str]:
        """Return names such as `cooking-2/17` (level, game), by level, then by number."""
        if split not in self._splits:
            raise UnknownTask(f"TextWorld has no split {split!r}; it has train and test")
        return list(self._splits[split])

    def make(self) -> Game:
        """Make an instance."""
        if command := self.missing():
            raise EnvironmentMissing(f"TextWorld needs its package: {command}")
        return Game(self.text_of)


def make_spec() -> TextWorld:
    """Return the spec."""
    return TextWorld()
