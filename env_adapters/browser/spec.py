"""The common base of web environments' specs; each adds its name, its tasks, and how to make an instance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from env_adapters.browser.actions import text_of, tools
from env_adapters.protocol import Isolation, UnknownTask


class BrowserSpec:
    """Tasks in two disjoint splits, played by actions on a page's elements."""

    name: ClassVar[str]
    title: ClassVar[str]
    """The name in messages."""
    kinds: ClassVar[tuple[str, ...]]
    """Kinds of actions."""
    isolation: Isolation = "host"
    step_timeout_s = 90.0

    def __init__(self, tasks: Mapping[str, str]) -> None:
        self._tasks = tasks
        """Split by task."""
        self.tools = tools(self.kinds)

    def splits(self) -> list[str]:
        """Return the two disjoint splits. `test` has some tasks of every group, chosen by a hash."""
        return ["train", "test"]

    def tasks(self, split: str) -> list[str]:
        """Return names such as `click-button/7`, by group and number."""
        if split not in self.splits():
            raise UnknownTask(f"{self.title} has no split {split!r}; it has train and test")
        return [task for task, where in self._tasks.items() if where == split]

    def text_of(self, name: str, arguments: dict[str, Any]) -> str:
        """Return a tool call as the action it stands for."""
        return text_of(self.kinds, name, arguments)
