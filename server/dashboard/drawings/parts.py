"""The parts that a drawing of an environment's state consists of. `templates/drawings.html` has one macro for each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Placed:
    """A thing in a grid."""

    name: str
    """As the observation names it, with its number."""
    color: str
    shape: str
    """`ball`, `box`, `key`, `door` or `wall`."""
    state: str
    """`open`, `closed` or `locked` for a door, otherwise empty."""
    column: int
    row: int


@dataclass(frozen=True, slots=True)
class Grid:
    """The agent's view: it stands in the middle of the last row and looks up."""

    kind: ClassVar[str] = "grid"
    size: int
    """Rows and columns."""
    things: tuple[Placed, ...]
    carried: Placed | None
    doorway: Placed | None
    """The open door that the agent stands in."""

    @property
    def described(self) -> str:
        """The drawing in words, for readers who do not see it."""
        seen = ", ".join(thing.name for thing in self.things if thing.shape != "wall") or "nothing"
        return f"Grid of {self.size} by {self.size} cells before the agent, with {seen}."


@dataclass(frozen=True, slots=True)
class Held:
    """An item of an inventory."""

    name: str
    count: int
    change: int
    """What the step added; negative for what it used up."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """What the agent carries."""

    kind: ClassVar[str] = "inventory"
    items: tuple[Held, ...] | None
    """None if the record does not tell."""
    goal: str
    shown: bool
    """The environment listed it in this step; otherwise it is replayed from the recorded commands."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage that a search found."""

    number: int
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Passages:
    """The results of a search."""

    kind: ClassVar[str] = "passages"
    found: tuple[Passage, ...]
    note: str
    """What the environment wrote beside them."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a web page: text, or an element that can be acted on."""

    text: str
    number: int | None = None
    """The element's number, by which actions name it."""
    role: str = ""
    """The element's kind, such as `button`."""


@dataclass(frozen=True, slots=True)
class Page:
    """A web page as the agent reads it."""

    kind: ClassVar[str] = "page"
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Screen:
    """Text whose columns have a meaning, such as a board drawn in characters."""

    kind: ClassVar[str] = "screen"
    text: str


@dataclass(frozen=True, slots=True)
class Meter:
    """A score between two ends."""

    kind: ClassVar[str] = "meter"
    label: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Choices:
    """The actions that the environment offered."""

    kind: ClassVar[str] = "choices"
    label: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """Recorded values by name."""

    kind: ClassVar[str] = "facts"
    values: tuple[tuple[str, str], ...]


Part = Grid | Inventory | Passages | Page | Screen | Meter | Choices | Facts


@dataclass(frozen=True, slots=True)
class State:
    """The state after a step, or before the first one."""

    parts: tuple[Part, ...] = field(default=())
    note: str = ""
    """Where the drawing comes from, in a sentence; empty where the observation says it all."""
