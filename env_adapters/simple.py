"""A family out of a class and lists of tasks: the short way to an environment of your own (docs/environments.md)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from env_adapters.protocol import Environment, Isolation, UnknownTask


@dataclass(frozen=True)
class SimpleFamily:
    """An environment that needs nothing installed and has no tools."""

    name: str
    description: str
    environment: Callable[[], Environment]
    """Makes an instance; its class will do."""
    lists: dict[str, list[str]]
    """Tasks by split: `train` and `test` at least, with no task in both."""
    isolation: Isolation = "thread"
    step_timeout_s: float = 30.0
    tools: list[dict[str, Any]] = field(default_factory=list)

    def missing(self) -> str | None:
        """Return None."""
        return None

    def text_of(self, name: str, arguments: dict[str, Any]) -> str:
        """Refuse every call: there are no tools."""
        raise ValueError(f"{self.name} has no tool {name!r}")

    def splits(self) -> list[str]:
        """Return the splits' names."""
        return list(self.lists)

    def tasks(self, split: str) -> list[str]:
        """Return the tasks of a split, in the order they were given."""
        if split not in self.lists:
            raise UnknownTask(f"{self.name} has no split {split!r}; it has {', '.join(self.lists)}")
        return self.lists[split]

    def make(self) -> Environment:
        """Make an instance."""
        return self.environment()
