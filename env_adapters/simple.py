"""A spec from a class and lists of tasks: the short way to write an environment (docs/environments.md)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from env_adapters.protocol import Environment, Isolation, UnknownTask


@dataclass(frozen=True)
class SimpleSpec:
    """An environment that needs nothing installed and has no tools."""

    name: str
    description: str
    environment: Callable[[], Environment]
    """Makes an instance; usually the environment's class."""
    lists: dict[str, list[str]]
    """Tasks by split: at least `train` and `test`, with no task in both."""
    isolation: Isolation = "thread"
    step_timeout_s: float = 30.0
    tools: list[dict[str, Any]] = field(default_factory=list)

    def missing(self) -> str | None:
        """Return None."""
        return None

    def text_of(self, name: str, arguments: dict[str, Any]) -> str:
        """Reject every call: the environment has no tools."""
        raise ValueError(f"{self.name} has no tool {name!r}")

    def splits(self) -> list[str]:
        """Return the names of the splits."""
        return list(self.lists)

    def tasks(self, split: str) -> list[str]:
        """Return the tasks of a split, in the given order."""
        if split not in self.lists:
            raise UnknownTask(f"{self.name} has no split {split!r}; it has {', '.join(self.lists)}")
        return self.lists[split]

    def make(self) -> Environment:
        """Make an instance."""
        return self.environment()


def __getattr__(name: str) -> Any:
    """Return `SimpleSpec` under its deprecated name `SimpleFamily`, which environments of users still import."""
    if name != "SimpleFamily":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    logging.getLogger(__name__).warning("SimpleFamily is deprecated, use SimpleSpec")
    globals()["SimpleFamily"] = SimpleSpec
    return SimpleSpec
