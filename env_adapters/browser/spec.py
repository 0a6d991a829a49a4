"""What families of tasks in a browser have in common; each adds its name, its tasks, and how an instance is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from env_adapters.browser.actions import text_of, tools
from env_adapters.protocol import Isolation, UnknownTask


class BrowserSpec:
    """Tasks in two disjoint splits, played by actions on a page's elements."""

    name: ClassVar[str]
    title: ClassVar[str]
    """In messages."""
    kinds: ClassVar[tuple[str, ...]]
    """Of action."""
    isolation: Isolation = "host"
    step_timeout_s = 90.0

    def __init__(self, tasks: Mapping[str, str]) -> None:
        self._tasks = tasks
        """The split of every task."""
        self.tools = tools(self.kinds)

    def splits(self) -> list[str]:
        """Two splits, ours: of every group of tasks some numbers, chosen by a hash, are `test`."""
        return ["train", "test"]

    def tasks(self, split: str) -> list[str]:
        """Names like `click-button/7`, by group and number."""
        if split not in self.splits():
            raise UnknownTask(f"{self.title} has no split {split!r}; it has train and test")
        return [task for task, where in self._tasks.items() if where == split]

    def text_of(self, name: str, arguments: dict[str, Any]) -> str:
        """Return a tool call as the action it stands for."""
        return text_of(self.kinds, name, arguments)
