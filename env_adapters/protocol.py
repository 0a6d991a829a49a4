"""The environment protocol: what every adapter in this package offers.

An environment is text in, text out. Its instructions, and finding the action in an answer, belong to the adapter.
Adapters know nothing of servers, learners or HTTP; each instance is used by one episode and by one thread at a time.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Isolation = Literal["inline", "thread", "host"]
"""Where an environment's steps run: `inline` takes microseconds and runs in the caller's event loop, `thread` blocks
for a moment and runs in a worker thread, `host` is heavy or can hang and runs in a host process."""


class EnvironmentFailure(RuntimeError):
    """The environment itself broke: its episode is an error, never a reward of 0."""


class EnvironmentMissing(EnvironmentFailure):
    """What the environment needs is not installed; the text says how to install it."""


class UnknownTask(KeyError):
    """There is no such task or split."""


@dataclass(frozen=True, slots=True)
class Reset:
    """What an agent sees first."""

    messages: list[dict[str, str]]
    """Chat messages (`role`, `content`): instructions and the first observation; the last one is the user's."""
    info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Transition:
    """One environment step's result."""

    observation: str
    reward: float
    terminated: bool
    truncated: bool = False
    """The environment's own limit cut the episode (the horizon is the server's business)."""
    success: bool | None = None
    """The environment's verdict on the whole episode, when it has one; always set when terminated."""
    valid: bool = True
    """False where the answer held no action that the environment understands."""
    info: dict[str, Any] = field(default_factory=dict)


class Environment(Protocol):
    """One playable instance."""

    def reset(self, task: str, seed: int) -> Reset:
        """Begin a task. The same task and seed give the same episode in every process and on every machine.

        Raises:
            UnknownTask: there is no such task.
        """

    def step(self, text: str) -> Transition:
        """Act on a model's whole answer. An answer without a valid action is a transition too, with its reason."""

    def oracle(self) -> str:
        """Return the answer that the environment's own solver gives now.

        Raises:
            NotImplementedError: the environment has no solver.
        """

    def random(self, rng: random.Random) -> str:
        """Return an answer of somebody who knows the actions that are possible now and nothing else."""

    def close(self) -> None:
        """Release what the instance holds. Calling it twice is allowed."""


class Family(Protocol):
    """All tasks of one environment, and the way to make instances. Shared by all episodes, read-only.

    A family is light: whoever lists its tasks imports nothing heavy. Only `make` and its instances do.
    """

    name: str
    description: str
    isolation: Isolation
    step_timeout_s: float
    """A reset or step that takes longer is stuck: its episode is an error."""
    tools: list[dict[str, Any]]
    """Actions as OpenAI's function tools, for agents that call tools; empty where there is only text."""

    def missing(self) -> str | None:
        """Return what has to be installed before it can be played (a command), or None."""

    def text_of(self, name: str, arguments: dict[str, Any]) -> str:
        """Return a call of one of the tools as the answer that `step` understands.

        Raises:
            ValueError: there is no such tool, or its arguments do not fit.
        """

    def splits(self) -> list[str]:
        """Names of the disjoint splits; always contains `train` and `test`."""

    def tasks(self, split: str) -> list[str]:
        """Tasks of a split, in the same order everywhere.

        Raises:
            UnknownTask: there is no such split.
        """

    def make(self) -> Environment:
        """Make a fresh instance.

        Raises:
            EnvironmentMissing: a package or program that it needs is not installed.
        """
