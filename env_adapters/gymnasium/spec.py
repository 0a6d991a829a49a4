"""Any environment of Gymnasium's registry (MIT) as text: `gymnasium:CartPole-v1`.

Responsible for tasks, playing and the verdict; `text.py` turns spaces into text. Only registered ids are accepted:
Gymnasium's form `module:Id` would import a module of the caller's choice, so it is refused.

- A task is a seed (`seed-17`); the splits are chosen by this project. With an episode's seed 0, 1, 2 it is Gymnasium's
  seed 17, 1017, 2017: these fit into 31 bits, and no two tasks share one.
- Rewards are the environment's own and not limited to 0..1. Their sum is the return, which `info` contains too. An
  episode is a success if its return reaches the registry's `reward_threshold` or, without a threshold, if its last
  reward is above 0; `text.py` has other rules for some well-known environments.
- Environments with a terminal rendering (`render_mode="ansi"`) show that, all others their numbers.
- There is no solver. A random player samples the action space, restricted to `info["action_mask"]` if present.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
import random
import re
from typing import TYPE_CHECKING, Any

from env_adapters.answer import nearest, read_action, said
from env_adapters.dress import Call
from env_adapters.protocol import EnvironmentFailure, EnvironmentMissing, Isolation, Reset, Transition, UnknownTask
from env_adapters.splits import held_out
from upturn import packages

if TYPE_CHECKING:
    import gymnasium

TASKS = 1000
TEST_SHARE = 0.2
LARGEST_OBSERVATION = 512
"""Maximum count of numbers in an observation, chosen by this project. Images have more."""
_INSTALL = packages.command("gymnasium")


class Game:
    """One instance of one environment."""

    def __init__(self, env: gymnasium.Env[Any, Any], name: str, call: Call) -> None:
        from env_adapters.gymnasium import text as gymnasium_text

        self._call = call
        self._env, self._text, self._over = env, gymnasium_text, True
        known = gymnasium_text.KNOWN.get(name.rpartition("-v")[0])
        self._names = known.actions if known else ()
        self._success = known.success if known else "threshold"
        self._return, self._info = 0.0, dict[str, Any]()
        rules = known.rules if known else f"You act in the Gymnasium environment {name}."
        try:
            self._actions = gymnasium_text.describe(env.action_space, self._names)
        except TypeError as error:
            raise EnvironmentFailure(f"the actions of {name} have no text form: {error}") from error
        if env.render_mode != "ansi" and gymnasium_text.size(env.observation_space) > LARGEST_OBSERVATION:
            raise EnvironmentFailure(f"the observations of {name} have no text form: they are too large")
        self._instructions = f"{rules}\nAnswer with one action only: {self._actions}"

    def reset(self, task: str, seed: int) -> Reset:
        """Begin a task."""
        number = re.fullmatch(r"seed-(0|[1-9][0-9]{0,5})", task)
        if number is None or int(number[1]) >= TASKS:
            raise UnknownTask(f"no task {task!r}; they are named seed-0 to seed-{TASKS - 1}")
        observation, self._info = self._env.reset(seed=(int(number[1]) + TASKS * seed) % 2**31)
        self._over, self._return = False, 0.0
        return Reset(
            [{"role": "system", "content": self._instructions}, {"role": "user", "content": self._show(observation)}]
        )

    def step(self, text: str) -> Transition:
        """Execute the action in an answer.

        Raises:
            ValueError: the episode is over or has not begun.
        """
        if self._over:
            raise ValueError("this episode is over or has not begun: reset it before a step")
        action = read_action(text, self._understood, call=self._call)
        if action is None:
            return Transition(self._wrong(said(text)), 0.0, False, valid=False)
        observation, reward, terminated, truncated, self._info = self._env.step(action)
        self._return += float(reward)
        self._over = terminated or truncated
        success = self._verdict(float(reward), bool(terminated)) if self._over else None
        return Transition(
            self._show(observation),
            float(reward),
            bool(terminated),
            bool(truncated),
            success,
            info={"return": self._return},
        )

    def _understood(self, text: str) -> Any:
        try:
            return self._text.read(self._env.action_space, text, self._names)
        except ValueError:
            return None

    def _wrong(self, text: str) -> str:
        reason = "it is neither a name nor JSON"
        try:
            self._text.read(self._env.action_space, text, self._names)
        except ValueError as error:
            reason = str(error)
        return f"Not an action: {reason}. Answer with one action only: {self._actions}{nearest(text, self._names)}"

    def _verdict(self, reward: float, terminated: bool) -> bool:
        threshold = self._env.spec.reward_threshold if self._env.spec else None
        if self._success == "terminated":
            return terminated
        return reward > 0 if self._success == "reward" or threshold is None else self._return >= threshold

    def _show(self, observation: Any) -> str:
        if self._env.render_mode == "ansi":
            return self._text.without_colors(str(self._env.render()))
        return self._text.show(observation)

    def oracle(self) -> str:
        """Raise `NotImplementedError`: there is no solver."""
        raise NotImplementedError("Gymnasium's environments have no solver")

    def random(self, rng: random.Random) -> str:
        """Return a random possible action."""
        import numpy as np
        from gymnasium import spaces

        space = self._env.action_space
        space.seed(rng.getrandbits(31))
        if isinstance(space, spaces.Discrete):
            mask = self._info.get("action_mask")
            number = int(space.sample(mask=None if mask is None else np.asarray(mask, dtype=np.int8)))
            return self._names[number - int(space.start)] if len(self._names) == space.n else str(number)
        return json.dumps(self._text.plain(space.sample(), digits=None))

    def close(self) -> None:
        """Close Gymnasium's environment."""
        self._over = True
        self._env.close()


class Gymnasium:
    """One registered id."""

    isolation: Isolation = "host"
    step_timeout_s = 30.0
    tools: list[dict[str, Any]] = [  # noqa: RUF012 (never changed)
        {
            "type": "function",
            "function": {
                "name": "act",
                "description": "Act, by an action as the instructions describe it.",
                "parameters": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["action"],
                    "properties": {"action": {"type": "string"}},
                },
            },
        }
    ]

    def __init__(self, identifier: str) -> None:
        self.name = f"gymnasium:{identifier}"
        self.description = f"Gymnasium's {identifier} as text."
        self._id = identifier
        self._test = held_out(self.name, self._all(), round(TASKS * TEST_SHARE))

    @staticmethod
    def _all() -> list[str]:
        return [f"seed-{number}" for number in range(TASKS)]

    def missing(self) -> str | None:
        """Return the command that installs Gymnasium, or None. `make` reports an environment's further needs."""
        return None if importlib.util.find_spec("gymnasium") else _INSTALL

    def text_of(self, name: str, arguments: dict[str, Any]) -> str:
        """Return the action of a call of `act`."""
        if name != "act" or not isinstance(arguments.get("action"), str):
            raise ValueError(f"{self.name} has the tool act with the text `action`, not {name!r} with {arguments!r}")
        return str(arguments["action"])

    def splits(self) -> list[str]:
        """Return the two disjoint splits. `test` has a fifth of the seeds, chosen by a hash."""
        return ["train", "test"]

    def tasks(self, split: str) -> list[str]:
        """Return names such as `seed-17`."""
        if split not in self.splits():
            raise UnknownTask(f"{self.name} has no split {split!r}; it has train and test")
        return [task for task in self._all() if (task in self._test) == (split == "test")]

    def make(self) -> Game:
        """Make an instance."""
        if command := self.missing():
            raise EnvironmentMissing(f"Gymnasium is not installed: {command}")
        import gymnasium
        from gymnasium.envs.registration import load_env_creator

        spec = gymnasium.registry[self._id]
        try:
            creator = spec.entry_point if callable(spec.entry_point) else load_env_creator(str(spec.entry_point))
            modes = (getattr(creator, "metadata", None) or {}).get("render_modes", [])
            env: gymnasium.Env[Any, Any] = gymnasium.make(
                spec, render_mode="ansi" if "ansi" in modes else None, disable_env_checker=True
            )
        except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
            raise EnvironmentMissing(f"{self._id} needs more packages: {error}") from error
        except (gymnasium.error.Error, TypeError) as error:
            raise EnvironmentFailure(f"{self._id} cannot be made: {type(error).__name__}: {error}") from error
        return Game(env, self._id, self.text_of)


def make_spec(identifier: str) -> Gymnasium:
    """Return the spec of a registered id.

    Raises:
        UnknownTask: the registry does not have the id.
    """
    if importlib.util.find_spec("gymnasium"):
        import gymnasium

        if identifier not in gymnasium.registry:
            near = difflib.get_close_matches(identifier, gymnasium.registry, n=3)
            raise UnknownTask(f"Gymnasium has no {identifier!r}{'; did you mean ' if near else ''}{', '.join(near)}")
    return Gymnasium(identifier)
