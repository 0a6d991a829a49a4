"""Web actions in WebArena's syntax (arXiv 2307.13854): parsing, tools, and random actions.

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


def read_action(text: str, kinds: tuple[str, ...]) -> Action | None:
    """Return the action in an answer's first `Action:` line, or otherwise in its first line, or None.

    Missing or extra brackets and quotes, case and Markdown do not matter.
    """
    lines = [line.strip(" \t`*>").removesuffix(".") for line in text.splitlines()]
    lines = [line for line in lines if line]
    marked = [line for line in lines if re.match(r"action\s*:", line, re.IGNORECASE)]
    line = re.sub(r"^action\s*:\**", "", next(iter(marked or lines), ""), flags=re.IGNORECASE).strip(" \t`*")
    found = re.match(r"([a-z_]+)\s*(.*)$", line, re.IGNORECASE)
    if found is None or (kind := found[1].lower()) not in kinds:
        return None
    return _READERS[kind](kind, found[2].strip())


def _bare(text: str) -> str:
    """Return a text without surrounding brackets or quotes."""
    for opening, closing in ("()", "[]", '""', "''"):
        if len(text) > 1 and text[0] == opening and text[-1] == closing:
            return text[1:-1].strip()
    return text


def _with_id(kind: str, rest: str) -> Action | None:
    found = re.match(r"[\[(]?(\d{1,6})[\])]?(?!\w)", rest)
    return Action(kind, int(found[1])) if found and int(found[1]) else None


def _with_text(kind: str, rest: str) -> Action | None:
    found = re.match(r"[\[(]?(\d{1,6})[\])]?(?!\w)[\s,]*", rest)
    if found is None or int(found[1]) == 0:
        return None
    text, enter = rest[found.end() :], False
    if not text:
        return None
    if kind == "type" and (inside := re.fullmatch(r"\[(.*?)\](?:\s*\[(?:press_enter_after\s*=\s*)?([01])\])?", text)):
        text, enter = inside[1], inside[2] == "1"
    else:
        text = _bare(text)
    if kind == "select" and not text:
        return None
    return Action(kind, int(found[1]), text[:TEXT_CHARS], enter)


def _with_key(kind: str, rest: str) -> Action | None:
    key = KEYS.get(_bare(rest).lower().replace(" ", "").replace("_", ""))
    return Action(kind, text=key) if key else None


def _with_direction(kind: str, rest: str) -> Action | None:
    word = _bare(rest).lower()
    return Action(kind, text=word) if word in ("down", "up") else None


def _with_answer(kind: str, rest: str) -> Action | None:
    return Action(kind, text=_bare(rest)[:TEXT_CHARS])


def _alone(kind: str, rest: str) -> Action | None:
    return Action(kind)


_READERS = {
    "click": _with_id,
    "hover": _with_id,
    "type": _with_text,
    "select": _with_text,
    "press": _with_key,
    "scroll": _with_direction,
    "go_back": _alone,
    "stop": _with_answer,
}


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
