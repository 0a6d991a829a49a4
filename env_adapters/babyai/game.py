"""One BabyAI episode: a level of minigrid, played in words."""

from __future__ import annotations

import random
from copy import deepcopy

from env_adapters.answer import nearest, read_action, said
from env_adapters.babyai.level import Level, act, describe_thing, make_level, relax, sight_of
from env_adapters.babyai.text import Sight, describe, find_move
from env_adapters.dress import Call
from env_adapters.protocol import Reset, Transition, UnknownTask

INSTRUCTIONS = (
    "You move through rooms to reach the goal. You see only what is in front of you; places are in steps from you. "
    "Turn and walk to see more. You can carry one thing; a locked door needs the key of its color; toggle opens a "
    "door or a box in front of you. Answer with one of the listed actions only, for example:\ngo to red ball 1"
)
INVALID = "Not possible now. Answer with one of the actions below."


class Game:
    """One instance: a level of minigrid, played in words."""

    def __init__(self, tasks: frozenset[str], call: Call) -> None:
        self._tasks, self._call = tasks, call
        self._level: Level | None = None
        """None before the reset and after the end."""
        self._sight = Sight([], [], None, {})
        self._plan: list[str] = []
        """The rest of the solver's plan, kept while the player follows it."""

    def reset(self, task: str, seed: int) -> Reset:
        """Begin a task. The task determines the map; the seed has no effect."""
        if task not in self._tasks:
            raise UnknownTask(f"no BabyAI task {task!r}; they are named like 'GoToRedBall/17'")
        name, _, number = task.partition("/")
        self._level, self._plan = make_level(name), []
        self._level.reset(seed=int(number))
        relax(self._level.instrs)
        goal = str(self._level.mission)
        messages = [
            {"role": "system", "content": INSTRUCTIONS},
            {"role": "user", "content": f"Goal: {goal}.\n{self._observe(self._level)}"},
        ]
        return Reset(messages, {"goal": goal, "level": name, "max_primitive_steps": self._level.max_steps})

    def _observe(self, level: Level) -> str:
        self._sight = sight_of(level)
        return describe(self._sight, describe_thing(level.carrying))

    def _playing(self) -> Level:
        if self._level is None:
            raise ValueError("this BabyAI episode is over or has not begun: reset it first")
        return self._level

    def step(self, text: str) -> Transition:
        """Execute the action in an answer.

        Raises:
            ValueError: the episode is over or has not begun.
        """
        level = self._playing()
        action = read_action(text, lambda part: find_move(part, self._sight.moves), call=self._call)
        if action is None:
            seen = describe(self._sight, describe_thing(level.carrying))
            wrong = f"{INVALID}{nearest(said(text), self._sight.moves)}\n{seen}"
            return Transition(wrong, 0.0, False, valid=False)
        self._plan = self._plan[1:] if self._plan[:1] == [action] else []
        reward, terminated, truncated = act(level, self._sight.moves[action].primitives)
        info = {"minigrid_reward": reward, "primitive_steps": level.step_count}
        if terminated or truncated:
            self._level = None
        if terminated:
            verdict = "You reached the goal." if reward > 0 else "You failed: that was against the goal."
            return Transition(verdict, float(reward > 0), True, success=reward > 0, info=info)
        if truncated:
            return Transition("The time is over.", 0.0, False, truncated=True, success=False, info=info)
        return Transition(self._observe(level), 0.0, False, info=info)

    def oracle(self) -> str:
        """Return the next action of a winning plan, which is made once and then followed.

        Raises:
            NotImplementedError: the solver finds no plan within its bound.
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
