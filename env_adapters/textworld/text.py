"""The text of an uncompiled TextWorld game: rooms, objects and the inventory in words, and matching commands.

The package has such texts only in compiled games; this project writes them from the same facts. The rules come from the
package.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}
STATES = {"open", "closed", "locked", "fried", "roasted", "grilled", "burned", "chopped", "sliced", "diced"}
SYNONYMS = (
    (r"(pick up|get|grab) ", "take "),
    (r"(read|look at|inspect|x) ", "examine "),
    (r"(walk|move|head) ", "go "),
    (r"(north|south|east|west)$", r"go \1"),
    (r"l$|look around$", "look"),
    (r"i$|inv$", "inventory"),
    (r"prepare the meal$|make meal$", "prepare meal"),
)


class Scene:
    """The facts of a game's current state."""

    def __init__(self, facts: Iterable[Any], names: dict[str, str], descriptions: dict[str, str]) -> None:
        self._names, self._descriptions = names, descriptions
        self._states: dict[str, list[str]] = {}
        self._inside: dict[str, list[str]] = {}
        self._exits: dict[tuple[str, str], str] = {}
        self._doors: dict[frozenset[str], str] = {}
        self.room = ""
        for fact in facts:
            on = [argument.name for argument in fact.arguments]
            if fact.name in STATES:
                self._states.setdefault(on[0], []).append(fact.name)
            elif fact.name == "at" and on[0] == "P":
                self.room = on[1]
            elif fact.name in ("at", "on", "in"):
                self._inside.setdefault(on[1], []).append(on[0])
            elif fact.name == "link":
                self._doors[frozenset((on[0], on[2]))] = on[1]
            elif fact.name.removesuffix("_of") in OPPOSITE:
                self._exits[on[1], fact.name.removesuffix("_of")] = on[0]

    def look(self) -> str:
        """Return the description of the current room."""
        here = self._sorted(thing for thing in self._inside.get(self.room, []))
        lines = [f"-= {_begin(self._names[self.room])} =-"]
        if furniture := [thing for thing in here if self._holds(thing)]:
            lines.append(f"You see: {', '.join(map(self._thing, furniture))}.")
        if loose := [thing for thing in here if not self._holds(thing)]:
            lines.append(f"On the floor: {', '.join(map(self._thing, loose))}.")
        exits = [self._exit(way, to) for (start, way), to in sorted(self._exits.items()) if start == self.room]
        return "\n".join([*lines, f"Exits: {', '.join(exits) or 'none'}."])

    def inventory(self) -> str:
        """Return the list of carried objects."""
        return f"You carry: {', '.join(map(self._thing, self._sorted(self._inside.get('I', [])))) or 'nothing'}."

    def examine(self, thing: str) -> str:
        """Return the description of an object."""
        own = re.sub(r"\[if .*?\[end if\]", "", self._descriptions.get(thing) or "", flags=re.DOTALL)
        own = re.sub(r"\[.*?\]", self._names[thing], own)
        own = "\n".join(line.strip() for line in own.splitlines())
        return f"{_begin(self._thing(thing))}.\n{own}".strip()

    def _sorted(self, things: Iterable[str]) -> list[str]:
        return sorted(things, key=lambda thing: (self._names[thing], thing))

    @staticmethod
    def _holds(thing: str) -> bool:
        return re.match("(c|s|stove|oven|toaster)_", thing) is not None

    def _thing(self, thing: str) -> str:
        """Return an object's name with its state and its visible contents."""
        states = sorted(self._states.get(thing, []))
        if self._holds(thing) and not {"closed", "locked"}.intersection(states):
            inside = ", ".join(map(self._thing, self._sorted(self._inside.get(thing, []))))
            states.append(f"{'in' if 'open' in states else 'on'} it: {inside or 'nothing'}")
        return f"{self._names[thing]} ({'; '.join(states)})" if states else self._names[thing]

    def _exit(self, way: str, to: str) -> str:
        door = self._doors.get(frozenset((self.room, to)))
        return f"{way} through {self._thing(door)}" if door else way


def _begin(text: str) -> str:
    return text[:1].upper() + text[1:]


def plain(command: str) -> str:
    """Return a command in lowercase and without articles."""
    return " ".join(word for word in command.lower().split() if word not in ("the", "a", "an", "some"))


def usual(answer: str) -> str:
    """Return a command in lowercase, without articles, and with the game's own verbs."""
    action = plain(answer)
    for pattern, replacement in SYNONYMS:
        action = re.sub(f"^{pattern}", replacement, action)
    return action


def find_command(answer: str, commands: Iterable[str]) -> str | None:
    """Return the possible command that an answer means: exactly, by a synonym, or as the only one that extends it."""
    known = {plain(command): command for command in commands}
    action = usual(answer)
    if action in known:
        return known[action]
    longer = [command for name, command in known.items() if re.match(f"{re.escape(action)} (from|with|on|into) ", name)]
    return longer[0] if len(longer) == 1 else None
