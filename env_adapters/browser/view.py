"""A page as text, and the elements that actions can use."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Target:
    """An element that can be acted on."""

    id: int
    kind: str
    name: str
    state: str = ""
    options: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class View:
    """A page as text."""

    text: str
    targets: list[Target]
    lines: list[str]
    """All lines of the page; `text` is the visible part."""
    title: str
    more: Any = None
    """The value of the environment's own script."""
