"""One ScienceWorld episode: a seat in a Java process and a simulated world in it.

A reward is the gain of the score, clipped to 0..1, over the best score so far (the raw score, -100 to 100, is in
`info`). So neither a wrong focus, which ends the episode as a failure, nor starting over takes reward away. What is
already so at the first look earns nothing, and the rest is scaled so that a win adds up to 1. This, and the limit of
moves, are choices of this project. The Java processes are in `java.py`.
"""

from __future__ import annotations

import random
import re
from contextlib import suppress
from typing import Any

from env_adapters.answer import nearest_form, read_action
from env_adapters.dress import Call
from env_adapters.protocol import EnvironmentFailure, Reset, Transition, UnknownTask
from env_adapters.sciworld import java as sciworld_java
from env_adapters.sciworld.forms import ACTION, ACTION_WORDS, ACTIONS, FORMS
from env_adapters.sciworld.tasks import splits_by_task

MOVES = 200
"""Moves after which an episode is truncated; `wait` takes ten. The package's own limit of 100 would truncate some of
its own solutions, which take up to 178 (measured)."""
ACTION_CHARS = 200
OBSERVATION_CHARS = 4000
"""Longest texts to and from the simulator, chosen by this project."""
INSTRUCTIONS = (
    f"Do the science task. Answer with one action only:\n{ACTIONS}\n"
    "X and Y are things you have seen. Where several fit, you get a list: answer with a number of it. Focus only on "
    "what the task tells you to: a wrong focus ends the episode. wait lets ten moves pass, wait1 one."
)
INVALID = f"No known action matches that. Use one of: {ACTIONS}"
NO_CHOICE = "That is no number of the list. The request is cancelled."
WHOLE = 0.999
"""Scores from this value count as complete: a score is a sum of fractions."""


class SciWorld:
    """One instance: a seat in a Java process and, during an episode, a world in it."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._java: sciworld_java.Java | None = None
        self._world: Any = None
        self._type, self._variation = "", 0
        self._seeds = random.Random(0)
        self._first_seed = 0
        self._done: list[str] = []
        self._solution: list[str] | None = None
        self._choices: list[str] = []
        """The numbers of the simulator's list of choices, while it asks for one."""
        self._best = self._first = 0.0
        """The best score so far, and the one that the task begins with."""

    def reset(self, task: str, seed: int) -> Reset:
        """Begin a task. The seed determines the random events."""
        if task not in splits_by_task():
            raise UnknownTask(f"no ScienceWorld task {task!r}; they are named like 'find-animal/12'")
        name, _, number = task.partition("/")
        self._leave()
        self._type, self._variation = name, int(number)
        self._seeds = random.Random(f"sciworld/{task}/{seed}")
        self._first_seed = self._seeds.getrandbits(48)
        self._done, self._solution, self._choices = [], None, []
        if self._java is None or not self._java.alive:
            self._java = sciworld_java.JAVAS.take()
        goal, look, score = self._java.call(self._begin)
        self._best = self._first = max(0.0, score)
        messages = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": f"{goal}\n\n{look}"}]
        return Reset(messages, {"goal": goal, "type": name, "variation": self._variation})

    def _bare(self, text: str) -> str | None:
        """Return any text as an action: the simulator decides."""
        action = bare(text)
        if self._choices and (number := re.match(r"(\d+)\s*(?:[:.)].*)?$", action)):
            action = number[1]
        return action or None

    def _certain(self, text: str) -> str | None:
        """Return a text that has the form of an action, or None."""
        action = self._bare(text)
        if action in self._choices or (action and ACTION.fullmatch(action) and len(action.split()) <= ACTION_WORDS):
            return action
        return None

    def _begin(self) -> tuple[str, str, float]:
        """Return the task, the first observation, and the score of what is already so."""
        self._world = self._load(solved=False)
        goal, look = self._world.getTaskDescription().strip(), self._world.step("look around").strip()
        return goal, look, float(self._world.getScore())

    def _load(self, *, solved: bool) -> Any:
        assert self._java is not None
        world = self._java.world()
        self._java.seed(self._first_seed, 0)
        world.load(self._type, self._variation, "", solved)
        return world

    def step(self, text: str) -> Transition:
        """Execute the action in an answer.

        Raises:
            ValueError: the episode is over or has not begun.
            EnvironmentFailure: the simulator or its process failed.
        """
        java, world = self._open()
        action = read_action(text, self._bare, self._certain, self._call)
        if action is None:
            return Transition(INVALID, 0.0, False, valid=False)
        seed = self._seeds.getrandbits(48)

        def act() -> tuple[str, float, bool, int]:
            java.seed(seed, len(self._done) + 1)
            observation = world.step(action)
            return observation.strip(), float(world.getScore()), bool(world.getCompleted()), int(world.getNumMoves())

        observation, score, completed, moves = java.call(act)
        self._done.append(action)
        asked, self._choices = bool(self._choices), []
        if observation.startswith("Ambiguous request:"):
            self._choices = re.findall(r"^(\d+):", observation, re.MULTILINE)
        valid = not observation.startswith(("No known action", "Unknown action"))
        if not valid:
            observation = NO_CHOICE if asked else INVALID + nearest_form(action, FORMS)
        over = completed or score < 0
        best = max(self._best, min(1.0, score))
        reward, self._best = (best - self._best) / (1.0 - self._first or 1.0), best
        truncated = not over and moves > MOVES
        if over or truncated:
            self._leave()
        return Transition(
            observation[:OBSERVATION_CHARS],
            reward,
            over,
            truncated,
            success=score >= WHOLE if over else None,
            valid=valid,
            info={"raw_score": round(100 * score), "moves": moves},
        )

    def oracle(self) -> str:
        """Return the next action of the simulator's own solution that the player has not done yet.

        The solution starts from the initial state and does not recover from changes that invalidate it.
        """
        java, _ = self._open()
        if self._solution is None:
            self._solution = java.call(self._solve)
        at = 0
        for action in self._done:
            at += at < len(self._solution) and action == bare(self._solution[at])
        return self._solution[at] if at < len(self._solution) else "wait1"

    def _solve(self) -> list[str]:
        assert self._java is not None
        world = self._load(solved=True)
        found = self._java.texts(world.getGoldActionSequence())
        self._java.release(world)
        return found

    def random(self, rng: random.Random) -> str:
        """Return an action that the simulator reports as valid, or a number while it asks for a choice."""
        java, world = self._open()
        if self._choices:
            return rng.choice(self._choices)

        def valid() -> list[str]:
            java.seed(0, len(self._done) + 1)
            return java.texts(world.getValidActionObjectCombinations())

        return rng.choice(sorted(java.call(valid)))

    def close(self) -> None:
        """Release the world and the seat."""
        self._leave()
        java, self._java = self._java, None
        if java is not None:
            sciworld_java.JAVAS.give_back(java)

    def _open(self) -> tuple[sciworld_java.Java, Any]:
        if self._java is None or self._world is None:
            raise ValueError("this ScienceWorld episode is over or has not begun: reset it first")
        return self._java, self._world

    def _leave(self) -> None:
        """End the episode and release its world, which takes memory."""
        java, world, self._world = self._java, self._world, None
        if java is not None and world is not None and java.alive:
            with suppress(EnvironmentFailure):  # A dead process holds no memory.
                java.call(lambda: java.release(world))


def bare(text: str) -> str:
    """Return an action as the simulator gets it: lowercase ASCII on one line, of bounded length."""
    plain = text.encode("ascii", "ignore").decode().strip(" \t`'\"*>.")
    return " ".join(plain.split())[:ACTION_CHARS].lower()
