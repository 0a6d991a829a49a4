"""The variants of AgentGym's protocol, one per kind of server, and how its clients read an action out of an answer."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from env_adapters.answer import read_action
from env_adapters.thoughts import without_tagged


class NoAction(ValueError):
    """An answer contains no action; the message is the one of AgentGym's client."""


def _one_action(text: str) -> str:
    """TextCraft and BabyAI: one `Action:` line with letters, digits and commas only."""
    found = re.findall(r"Action:\s*(.*?)(?=\n|$)", text, re.DOTALL)
    if len(found) > 1:
        raise NoAction("Error: Only one 'Action' is allowed per response. Please adjust your response.")
    line = found[0] if found else next((line for line in text.splitlines() if line.strip()), "")
    return " ".join(re.sub(r"[^A-Za-z0-9, ]+", "", line).split())


def _last_action(text: str) -> str:
    """ALFWorld, SciWorld and WebShop: the text after the last `Action:`."""
    return text.rpartition("Action:")[2].strip()


def _first_action(text: str) -> str:
    """Maze and wordle: the text between the first `Action:` and the next."""
    parts = text.split("Action:")
    return parts[min(1, len(parts) - 1)].strip()


def _fenced(text: str) -> str:
    """WebArena: the whole answer, which must contain an action between triple backticks."""
    if not re.search(r"```.*?```", text, re.DOTALL):
        raise NoAction(
            "Cannot parse action from response. Your action should be inside triple backticks (```). "
            "Please adjust accordingly."
        )
    return text


def _query(text: str) -> str:
    """SQL: the last fenced block, or the whole answer."""
    return text.split("```sql")[-1].split("```")[0].strip()


def _whole(text: str) -> str:
    """SearchQA and the tool servers: the whole answer, which the server parses itself."""
    return text


@dataclass(frozen=True, slots=True)
class Kind:
    """The variant of the protocol that one kind of server implements."""

    size: int
    """Number of tasks (for an unlimited supply: how many are used)."""
    instructions: str
    read: Callable[[str], str]
    index: str = "data_idx"
    """Field of a reset request that selects the task."""
    key: str = "id"
    """Field that names the instance."""
    create: dict[str, Any] | None = None
    more: dict[str, Any] = field(default_factory=dict)
    """Further fields of a reset request."""
    path: str = ""
    closes: bool = False
    """Whether the server can close an instance; otherwise it keeps instances until it stops."""
    value: str = "reward"
    full: float = 1.0
    """The value of a complete success."""
    success: float = 1.0
    """Minimum share of `full` for a finished episode to be a success."""
    unknown: str = "\0"
    """Part of the observation that reports an action which the server did not understand."""
    forms: str = ""
    """Pattern of an action, by which it is found in an answer that AgentGym's client could not read."""

    def action(self, text: str) -> str:
        """Return the text to send for an answer.

        Raises:
            NoAction: the answer contains no action, or several.
        """
        said = without_tagged(text)
        if not self.forms or len(re.findall(r"^[^\S\n]*Action:", said, re.MULTILINE)) > 1:
            return self.read(said)
        pattern = re.compile(self.forms, re.IGNORECASE | re.DOTALL)
        found = read_action(text, lambda part: part if pattern.fullmatch(part) else None)
        if found is not None:
            return self.read(f"```{found}```" if self.read is _fenced else found)
        return self.read(said)


_REACT = "Answer with a thought and one action:\nThought: ...\nAction: ..."
_TOOLS = "Use the tools you are told of. Answer:\nAction: TOOL with Action Input: {JSON}"


def _tool(size: int, what: str) -> Kind:
    return Kind(size, f"{what} {_TOOLS}", _whole, index="id", key="env_idx", create={"id": 0}, unknown="Format error")


KINDS = {
    "textcraft": Kind(
        544,
        f"Craft the goal in Minecraft. Actions: get N item | craft N item using N item, N item | inventory. {_REACT}",
        _one_action,
        create={},
        closes=True,
        unknown="Could not execute",
        forms=r"get \d+ [\w ]+|craft [\w ]+ using [\w, ]+|inventory",
    ),
    "babyai": Kind(
        4000,
        f"Reach the goal in a grid of rooms, by one of the available actions. {_REACT}",
        _one_action,
        closes=True,
        value="score",
        success=0.0,
        unknown="action is not recognized",
        forms=r"turn (?:left|right)|move forward|(?:go (?:to|through)|pick ?up|toggle and go through|check) [\w ]+"
        r"|toggle|drop.*",
    ),
    "sciworld": Kind(
        4639,
        "Do the science task in a house of rooms, by commands such as: look around | open door to "
        "kitchen | go to kitchen | pick up X | move X to Y | activate X | use X on Y | focus on X | wait. "
        f"{_REACT}",
        _last_action,
        closes=True,
        value="score",
        full=100.0,
        unknown="No known action matches",
        forms=r"look around|inventory|task|wait\d?|(?:activate|close|connect|deactivate|disconnect|dunk|eat|examine"
        r"|flush|focus on|go to|look (?:at|in)|mix|move|open|pick up|pour|put down|read|teleport to|use)"
        r" [a-z0-9 ()'-]+",
    ),
    "alfworld": Kind(
        2620,
        f"Do the household task, by one of the available actions. {_REACT}",
        _last_action,
        index="game",
        more={"world_type": "Text"},
        unknown="Nothing happens",
        forms=r"(?:go to|take|put|move|open|close|toggle|clean|heat|cool|slice|use|examine) [a-z0-9 /]+|look|inventory",
    ),
    "maze": Kind(
        26,
        f"Walk to the goal of a maze. Actions: move up | move down | move left | move right. {_REACT}",
        _first_action,
        index="game",
        path="/maze",
        forms=r"move (?:up|down|left|right)",
    ),
    "wordle": Kind(
        1000,
        "Guess the word of five letters in six tries; b is a letter that is not in it, y one that is "
        f"elsewhere, g one that is right. Write letters with spaces, like: s h i r e. {_REACT}",
        _first_action,
        index="seed",
        path="/wordle",
        unknown="invalid word",
        forms=r"[a-z](?: [a-z]){4}",
    ),
    "webshop": Kind(
        6910,
        f"Buy what the instruction wants. Actions: search[words] | click[button or item]. {_REACT}",
        _last_action,
        index="session_id",
        key="env_idx",
        forms=r"(?:search|click)\[.+\]",
    ),
    "webarena": Kind(
        812,
        "Do the task in the browser. Actions: click [id] | type [id] [text] [press_enter] | hover "
        "[id] | press [keys] | scroll [up or down] | new_tab | tab_focus [index] | close_tab | goto [url] "
        "| go_back | go_forward | stop [answer]. Think, then end with the action like: ```click [12]```",
        _fenced,
        index="idx",
        key="env_idx",
        more={"seed": 0},
        closes=True,
        forms=r"(?:click|type|hover|press|scroll|tab_focus|goto|stop) ?\[.*\]"
        r"|new_tab|close_tab|go_back|go_forward|stop",
    ),
    "searchqa": Kind(
        221_328,
        "Think in <think>...</think>, then <search>words</search> to get passages, or <answer>the answer</answer>.",
        _whole,
        index="id",
        key="env_idx",
        create={"id": 0},
        closes=True,
        unknown="previous action is invalid",
    ),
    "sqlgym": Kind(
        10_962,
        "Answer the question by one SQLite query:\n```sql\nSELECT ...\n```",
        _query,
        index="item_id",
        key="env_idx",
    ),
    "weather": _tool(343, "Answer the question about the weather."),
    "movie": _tool(238, "Answer the question about movies."),
    "academia": _tool(19, "Answer the question about papers and their authors."),
    "todo": _tool(155, "Do the task in the to-do list."),
    "sheet": _tool(20, "Do the task in the spreadsheet."),
}
