"""The environment protocol: `EnvironmentSpec` defines an environment, `Environment` is one playable instance.

An environment is text in, text out. It provides its instructions and finds the action in an answer. It knows nothing
about servers, learners or HTTP. An instance belongs to one episode and is called by one thread at a time.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Isolation = Literal["inline", "thread", "host"]
"""Where an environment runs: `inline` takes microseconds and runs in the caller's event loop, `thread` blocks briefly
and runs in a worker thread, `host` is heavy or can hang and runs in a host process."""


class EnvironmentFailure(RuntimeError):
    """The environment itself failed: the episode ends as an error, never with a reward of 0."""


class EnvironmentMissing(EnvironmentFailure):
    """A package or program is not installed; the message says how to install it."""


class UnknownTask(KeyError):
    """The environment, task or split does not exist."""


LARGEST_REWARD = 1e6
"""Bound on the absolute reward of a step, as of every other reward (`upturn.wire`), so that sums stay finite."""


@dataclass(frozen=True, slots=True)
class Reset:
    """The start of an episode."""

    messages: list[dict[str, str]]
    """Chat messages (`role`, `content`): instructions and the first observation. The last is the user's message."""
    info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Transition:
    """The result of one environment step."""

    observation: str
    reward: float
    """Finite, and at most `LARGEST_REWARD` from 0; anything else is a failure of the environment."""
    terminated: bool
    truncated: bool = False
    """The environment's own limit ended the episode (the server enforces the horizon)."""
    success: bool | None = None
    """The environment's verdict on the whole episode, if it has one; always set when terminated."""
    valid: bool = True
    """False if the answer contained no action that the environment understands."""
    info: dict[str, Any] = field(default_factory=dict)


class Environment(Protocol):
    """One playable instance."""

    def reset(self, task: str, seed: int) -> Reset:
        """Begin a task. The same task and seed give the same episode in every process and on every machine.

        Raises:
            UnknownTask: the task does not exist.
        """

    def step(self, text: str) -> Transition:
        """Act on a model's whole answer.

        An answer without a valid action is a transition too; its observation gives the reason.
        """

    def oracle(self) -> str:
        """Return the next answer of the environment's own solver.

        Raises:
            NotImplementedError: the environment has no solver.
        """

    def random(self, rng: random.Random) -> str:
        """Return the answer of a player who knows the currently possible actions and nothing else."""

    def close(self) -> None:
        """Release the instance's resources. Calling it twice is allowed."""


class EnvironmentSpec(Protocol):
    """The definition of an environment: its tasks and how to make instances. Shared by all episodes, read-only.

    A spec is light: loading one and listing its tasks imports nothing heavy. Only `make` and its instances do.
    """

    name: str
    description: str
    isolation: Isolation
    step_timeout_s: float
    """A reset or step that takes longer counts as stuck, and its episode ends as an error."""
    tools: list[dict[str, Any]]
    """The actions as OpenAI function tools, for agents that call tools; empty if the environment takes only text."""

    def missing(self) -> str | None:
        """Return the command that installs what the environment still needs, or None if it is playable."""

    def text_of(self, name: str, arguments: dict[str, Any]) -> str:
        """Return a call of one of the tools as text that `step` understands.

        Raises:
            ValueError: the tool does not exist, or its arguments do not fit.
        """

    def splits(self) -> list[str]:
        """Return the names of the disjoint splits, which include `train` and `test`."""

    def tasks(self, split: str) -> list[str]:
        """Return the tasks of a split, in the same order everywhere.

        Raises:
            UnknownTask: the split does not exist.
        """

    def make(self) -> Environment:
        """Make a new instance.

        Raises:
            EnvironmentMissing: a package or program that it needs is not installed.
        """
