"""Web actions in WebArena's syntax (arXiv 2307.13854): kinds, tools, and random actions. `reading.py` parses them.

Two differences from WebArena: `type` replaces a field's text and presses Enter only on request (forms have many
fields), and there is no `goto`, since a player must not choose what the browser loads.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Any

from env_adapters.browser.view import View

TEXT_CHARS = 1000
"""Maximum length of typed text; default chosen by this project."""
KEYS = {
    key.lower(): key
    for key in (
        "Enter",
        "Tab",
        "Escape",
        "Backspace",
        "Delete",
        "ArrowUp",
        "ArrowDown",
        "ArrowLeft",
        "ArrowRight",
        "Home",
        "End",
        "PageUp",
        "PageDown",
    )
} | {
    "space": " ",
    "up": "ArrowUp",
    "down": "ArrowDown",
    "left": "ArrowLeft",
    "right": "ArrowRight",
    "esc": "Escape",
    "return": "Enter",
}
"""Keys that `press` accepts. None of them leaves the page or uses the clipboard."""
TYPED = ("textbox", "textarea", "searchbox", "spinbutton", "combobox")
"""Kinds of elements that take text."""
USAGE = {
    "click": "click [id]",
    "type": "type [id] [text] (replaces the text; a third [1] presses Enter)",
    "select": "select [id] [option]",
    "hover": "hover [id]",
    "press": "press [key]",
    "scroll": "scroll [down] or [up]",
    "go_back": "go_back",
    "stop": "stop [answer]",
}
_DESCRIPTIONS = {
    "click": "Click what has this id.",
    "type": "Replace the text of a field.",
    "select": "Select an option of a list; in a list of several it is switched.",
    "hover": "Move the mouse over what has this id.",
    "press": "Press a key, such as Enter, Tab or ArrowDown.",
    "scroll": "Scroll, to see more of a long page.",
    "go_back": "Go back to the page before.",
    "stop": "End the task, with the answer if it asks for one.",
}
_ID = {"id": {"type": "integer", "minimum": 1}}
_FIELDS: dict[str, dict[str, Any]] = {
    "click": _ID,
    "type": {**_ID, "text": {"type": "string"}, "press_enter": {"type": "boolean"}},
    "select": {**_ID, "option": {"type": "string"}},
    "hover": _ID,
    "press": {"key": {"type": "string"}},
    "scroll": {"direction": {"type": "string", "enum": ["down", "up"]}},
    "go_back": {},
    "stop": {"answer": {"type": "string"}},
}
_OPTIONAL = {"press_enter", "answer"}


@dataclass(frozen=True, slots=True)
class Action:
    """One action: its kind, the id of its element (0: none), its text, and whether Enter follows."""

    kind: str
    id: int = 0
    text: str = ""
    enter: bool = False

    def __str__(self) -> str:
        if self.kind == "go_back":
            return "go_back"
        parts = ([str(self.id)] if self.id else []) + ([self.text] if self.kind not in ("click", "hover") else [])
        parts += ["1"] if self.enter else []
        return " ".join([self.kind, *(f"[{part}]" for part in parts)])


def instructions(kinds: tuple[str, ...], first: str) -> str:
    """Return the system prompt of an environment with these actions."""
    return (
        f"{first} Answer with one action only:\n"
        + "\n".join(USAGE[kind] for kind in kinds)
        + "\nWhat can be acted on has a number: click [3] clicks what the page shows as [3]."
    )


def tools(kinds: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the actions as function tools."""
    return [
        {
            "type": "function",
            "function": {
                "name": kind,
                "description": _DESCRIPTIONS[kind],
                "parameters": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": _FIELDS[kind],
                    "required": [name for name in _FIELDS[kind] if name not in _OPTIONAL],
                },
            },
        }
        for kind in kinds
    ]


def text_of(kinds: tuple[str, ...], name: str, arguments: dict[str, Any]) -> str:
    """Return a tool call as the action it stands for.

    Raises:
        ValueError: the tool does not exist, or its arguments do not fit.
    """
    if name not in kinds:
        raise ValueError(f"there is no tool {name!r}; there are {', '.join(kinds)}")  # prose: ok (a model sees it)
    fields = _FIELDS[name]
    unfit = set(arguments) - set(fields) or {key for key in fields if key not in _OPTIONAL and key not in arguments}
    if unfit:
        raise ValueError(f"the arguments of {name} are {arguments!r}")
    parts = [" ".join(str(arguments[key]).splitlines()) for key in fields if key in arguments and key != "press_enter"]
    if name == "type":
        parts.append("1" if arguments.get("press_enter") else "0")
    return " ".join([name, *(f"[{part}]" for part in parts)])


def random_action(view: View, kinds: tuple[str, ...], goal: str, rng: random.Random) -> str:
    """Return a random action on the page's elements; typed text is a quote of the goal, or else one of its words."""
    texts = re.findall(r'"([^"]+)"', goal) or goal.rstrip(".").split()
    usable = [target for target in view.targets if not (target.options and "select" not in kinds)]
    others = [Action("scroll", text="down")] if "scroll" in kinds else []
    others += [Action(kind) for kind in ("go_back", "stop") if kind in kinds]
    if not usable or (others and rng.random() < 0.05):
        return str(rng.choice(others or [Action("press", text="Enter")]))
    target = rng.choice(usable)
    if target.options:
        return str(Action("select", target.id, rng.choice(target.options)))
    if target.kind in TYPED and texts:
        return str(Action("type", target.id, rng.choice(texts)))
    return str(Action("click", target.id))
