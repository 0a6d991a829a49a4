"""ScienceWorld (arXiv 2203.07540): elementary science by text commands, in a house with ten rooms.

The simulator is the package `scienceworld` (Apache-2.0), a Java program; its Python part is not used, since it starts a
process for every instance and lists all valid actions after each step. A task is one of 30 types and a variation.
Ours: the splits; the reward of a step, which is what the score, cut to 0..1, gained over the best so far (the raw
score, -100 to 100, is in `info`), so that neither a wrong focus, which ends the episode as a failure, nor starting over
takes anything away; and the limit of moves. The processes are `sciworld_java.py`.
"""

from __future__ import annotations

import random
import re
from contextlib import suppress
from functools import cache
from typing import Any

from env_adapters.protocol import EnvironmentFailure, EnvironmentMissing, Isolation, Reset, Transition, UnknownTask
from env_adapters.sciworld import java as sciworld_java
from env_adapters.splits import held_out

PAPER = {
    "boil": 30,
    "melt": 30,
    "freeze": 30,
    "change-the-state-of-matter-of": 30,
    "use-thermometer": 540,
    "measure-melting-point-known-substance": 436,
    "measure-melting-point-unknown-substance": 300,
    "power-component": 20,
    "power-component-renewable-vs-nonrenewable-energy": 20,
    "test-conductivity": 900,
    "test-conductivity-of-unknown-substances": 600,
    "find-living-thing": 300,
    "find-non-living-thing": 300,
    "find-plant": 300,
    "find-animal": 300,
    "chemistry-mix": 32,
    "chemistry-mix-paint-secondary-color": 36,
    "chemistry-mix-paint-tertiary-color": 36,
    "lifespan-longest-lived": 125,
    "lifespan-shortest-lived": 125,
    "lifespan-longest-lived-then-shortest-lived": 125,
    "identify-life-stages-1": 14,
    "identify-life-stages-2": 10,
}
"""The 23 types of AgentGym, and so of AgentGym-RL (arXiv 2509.08755), with their variations."""
MORE = {
    "grow-plant": 126,
    "grow-fruit": 126,
    "inclined-plane-determine-angle": 168,
    "inclined-plane-friction-named-surfaces": 1386,
    "inclined-plane-friction-unnamed-surfaces": 162,
    "mendelian-genetics-known-plant": 120,
    "mendelian-genetics-unknown-plant": 480,
}
"""The simulator's other types."""
TEST_SHARE = 0.2
MOVES = 200
"""An episode is cut after these, of which `wait` takes ten. Ours: the package's 100 would cut some of its own
solutions, which take up to 178 (measured)."""
ACTION_CHARS = 200
OBSERVATION_CHARS = 4000
"""Longest texts to and from the simulator; ours."""
ACTIONS = (
    "look around | look at X | look in X | inventory | task | go to X | open X | close X | pick up X | put down X | "
    "move X to Y | pour X in Y | dunk X in Y | mix X | use X on Y | activate X | deactivate X | connect X to Y | "
    "disconnect X | read X | eat X | flush X | focus on X | wait1 | wait"
)
INSTRUCTIONS = (
    f"Do the science task. Answer with one action only:\n{ACTIONS}\n"
    "X and Y are things you have seen. Where several fit, you get a list: answer with a number of it. Focus only on "
    "what the task tells you to: a wrong focus ends the episode. wait lets ten moves pass, wait1 one."
)
INVALID = f"No known action matches that. Use one of: {ACTIONS}"
NO_CHOICE = "That is no number of the list. The request is cancelled."
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
WHOLE = 0.999
"""A score of at least this is the whole one: it is a sum of parts."""


class SciWorld:
    """One instance: a seat in a Java process and, during an episode, a world in it."""

    def __init__(self) -> None:
        self._java: sciworld_java.Java | None = None
        self._world: Any = None
        self._type, self._variation = "", 0
        self._seeds = random.Random(0)
        self._first_seed = 0
        self._done: list[str] = []
        self._solution: list[str] | None = None
        self._choices: list[str] = []
        """The numbers of the list that was shown, where it asks for one."""
        self._best = 0.0

    def reset(self, task: str, seed: int) -> Reset:
        """Begin a task; the seed decides what happens by chance in it."""
        if task not in _places():
            raise UnknownTask(f"no ScienceWorld task {task!r}; they are named like 'find-animal/12'")
        name, _, number = task.partition("/")
        self._leave()
        self._type, self._variation = name, int(number)
        self._seeds = random.Random(f"sciworld/{task}/{seed}")
        self._first_seed = self._seeds.getrandbits(48)
        self._done, self._solution, self._choices, self._best = [], None, [], 0.0
        if self._java is None or not self._java.alive:
            self._java = sciworld_java.JAVAS.take()
        goal, look = self._java.call(self._begin)
        messages = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": f"{goal}\n\n{look}"}]
        return Reset(messages, {"goal": goal, "type": name, "variation": self._variation})

    def _begin(self) -> tuple[str, str]:
        self._world = self._load(solved=False)
        return self._world.getTaskDescription().strip(), self._world.step("look around").strip()

    def _load(self, *, solved: bool) -> Any:
        assert self._java is not None
        world = self._java.world()
        self._java.seed(self._first_seed, 0)
        world.load(self._type, self._variation, "", solved)
        return world

    def step(self, text: str) -> Transition:
        """Do what the action in an answer says.

        Raises:
            ValueError: the episode is over, or has not begun.
            EnvironmentFailure: the simulator or its process broke.
        """
        java, world = self._open()
        action = read_action(text)
        if self._choices and (number := re.match(r"(\d+)\s*(?:[:.)].*)?$", action)):
            action = number[1]
        if not action:
            return Transition(INVALID, 0.0, False, valid=False)
        seed = self._seeds.getrandbits(48)

        def act() -> tuple[str, float, bool, int]:
            java.seed(seed, len(self._done) + 1)
            said = world.step(action)
            return said.strip(), float(world.getScore()), bool(world.getCompleted()), int(world.getNumMoves())

        said, score, completed, moves = java.call(act)
        self._done.append(action)
        asked, self._choices = bool(self._choices), []
        if said.startswith("Ambiguous request:"):
            self._choices = re.findall(r"^(\d+):", said, re.MULTILINE)
        valid = not said.startswith(("No known action", "Unknown action"))
        if not valid:
            said = NO_CHOICE if asked else INVALID
        over = completed or score < 0
        best = max(self._best, min(1.0, score))
        reward, self._best = best - self._best, best
        truncated = not over and moves > MOVES
        if over or truncated:
            self._leave()
        return Transition(
            said[:OBSERVATION_CHARS],
            reward,
            over,
            truncated,
            success=score >= WHOLE if over else None,
            valid=valid,
            info={"raw_score": round(100 * score), "moves": moves},
        )

    def oracle(self) -> str:
        """Return the next action of the simulator's own solution that has not been done.

        The solution begins at the beginning: whoever has changed what it counts on, it does not lead back.
        """
        java, _ = self._open()
        if self._solution is None:
            self._solution = java.call(self._solve)
        at = 0
        for action in self._done:
            at += at < len(self._solution) and action == read_action(self._solution[at])
        return self._solution[at] if at < len(self._solution) else "wait1"

    def _solve(self) -> list[str]:
        assert self._java is not None
        world = self._load(solved=True)
        found = self._java.texts(world.getGoldActionSequence())
        self._java.release(world)
        return found

    def random(self, rng: random.Random) -> str:
        """Return one of the actions that the simulator calls valid now, or a number of the list it asks about."""
        java, world = self._open()
        if self._choices:
            return rng.choice(self._choices)

        def valid() -> list[str]:
            java.seed(0, len(self._done) + 1)
            return java.texts(world.getValidActionObjectCombinations())

        return rng.choice(sorted(java.call(valid)))

    def close(self) -> None:
        """Forget the world and leave the seat."""
        self._leave()
        java, self._java = self._java, None
        if java is not None:
            sciworld_java.JAVAS.give_back(java)

    def _open(self) -> tuple[sciworld_java.Java, Any]:
        if self._java is None or self._world is None:
            raise ValueError("this ScienceWorld episode is over or has not begun: reset it first")
        return self._java, self._world

    def _leave(self) -> None:
        """End the episode; its world takes memory."""
        java, world, self._world = self._java, self._world, None
        if java is not None and world is not None and java.alive:
            with suppress(EnvironmentFailure):  # A dead process holds nothing.
                java.call(lambda: java.release(world))


def read_action(text: str) -> str:
    """Return the action of an answer: its first `Action:` line, else its first line that is not empty."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    marked = [line for line in lines if re.match(r"[*_`\s]*action\s*[*_`]*:", line, re.IGNORECASE)]
    line = re.sub(r"^[*_`\s]*action\s*[*_`]*:", "", next(iter(marked or lines), ""), flags=re.IGNORECASE)
    plain = " ".join(line.encode("ascii", "ignore").decode().strip(" \t`'\"*>.").split())
    return plain[:ACTION_CHARS].lower()


@cache
def _places() -> dict[str, str]:
    """Return the split of every task."""
    places: dict[str, str] = {}
    for types, prefix in ((PAPER, ""), (MORE, "more_")):
        for name, count in types.items():
            tasks = [f"{name}/{variation}" for variation in range(count)]
            chosen = held_out("sciworld", tasks, max(1, round(count * TEST_SHARE)))
            places.update((task, prefix + ("test" if task in chosen else "train")) for task in tasks)
    return places


class ScienceWorld:
    """The family of all 7207 variations of the 30 types."""

    name = "sciworld"
    description = "Do an elementary science task, such as boiling water, by text commands in a house."
    isolation: Isolation = "host"
    step_timeout_s = 120.0
    tools = TOOLS

    def splits(self) -> list[str]:
        """Four disjoint splits, ours: of every type a fifth is for testing, chosen by a hash.

        `train` and `test` have the 23 types that the paper plays, `more_train` and `more_test` the other seven.
        """
        return ["train", "test", "more_train", "more_test"]

    def tasks(self, split: str) -> list[str]:
        """Names like `find-animal/12` (type, variation)."""
        if split not in self.splits():
            raise UnknownTask(f"ScienceWorld has no split {split!r}; it has {', '.join(self.splits())}")
        return [task for task, its in _places().items() if its == split]

    def missing(self) -> str | None:
        """Return what has to be installed, or None."""
        return sciworld_java.missing()

    def text_of(self, name: str, arguments: dict[str, Any]) -> str:
        """Return a call of `act` as its action."""
        if name != "act":
            raise ValueError(f"ScienceWorld has no tool {name!r}; it has act")
        if set(arguments) != {"action"} or not isinstance(arguments["action"], str):
            raise ValueError(f"the arguments of act are {arguments!r}")
        return f"Action: {' '.join(arguments['action'].split())}"

    def make(self) -> SciWorld:
        """Make an instance; a Java process starts with its first reset, where one is needed."""
        if (needs := self.missing()) is not None:
            raise EnvironmentMissing(needs)
        return SciWorld()


def make_family() -> ScienceWorld:
    """Return the family."""
    return ScienceWorld()
