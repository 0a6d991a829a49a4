"""TextCraft's inventory, replayed from the recorded commands and their recorded results.

A `get` that worked added what its result says. A `craft` that worked used what its command names, which is read from
the answer as the environment reads it. Where the environment listed the inventory, that list counts. A replay that
would use more than there was has lost track: the inventory is unknown until the next list.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

from env_adapters import environment_spec
from env_adapters.answer import read_action
from env_adapters.protocol import EnvironmentFailure
from env_adapters.textcraft.commands import Command, known, parse
from env_adapters.textcraft.recipes import Book, load
from server.dashboard.drawings.parts import Held, Inventory, State
from server.dashboard.drawings.record import Recorded, Taken

GOAL = re.compile(r"^Goal: craft (.+)\.$", re.MULTILINE)
GOT = re.compile(r"Got (\d+) (.+)")
CRAFTED = re.compile(r"Crafted (\d+) (.+)")
LISTED = re.compile(r"\[([^\]\n]+)\] \((\d+)\)")
INVENTORY = "Inventory: "
NOTE = "Replayed from the recorded commands and their results."


def states(recorded: Recorded) -> list[State]:
    """Return the state before the first step, and after each step."""
    goals = GOAL.findall(recorded.first)
    goal = goals[-1] if goals else recorded.task.rpartition("/")[2].replace("_", " ")
    stock: Counter[str] | None = Counter()
    found = [_state(stock, Counter(), goal, shown=False)]
    for step in recorded.steps:
        before = Counter() if stock is None else stock
        stock = _after(stock, step)
        found.append(_state(stock, before, goal, shown=step.observation.startswith(INVENTORY)))
    return found


def _state(stock: Counter[str] | None, before: Counter[str], goal: str, *, shown: bool) -> State:
    if stock is None:
        return State((Inventory(None, goal, shown=False),))
    names = [*stock, *(name for name in before if name not in stock)]
    items = tuple(Held(name, stock[name], stock[name] - before[name]) for name in names)
    return State((Inventory(items, goal, shown),), "" if shown else NOTE)


def _after(stock: Counter[str] | None, step: Taken) -> Counter[str] | None:
    """Return what is carried after a step, or None if the record does not tell."""
    result = step.observation.partition("\n")[0]
    if result.startswith(INVENTORY):
        return Counter({name: int(count) for name, count in LISTED.findall(result)})
    if stock is None:
        return None
    if got := GOT.fullmatch(result):
        return stock + Counter({got[2]: int(got[1])})
    if made := CRAFTED.fullmatch(result):
        command = _command(step.action)
        if command is None or command.verb != "craft" or command.item != made[2]:
            return None
        used = Counter[str]()
        for part in command.parts:
            used[part.item] += part.count or 0
        if any(stock[name] < count for name, count in used.items()):
            return None
        return stock - used + Counter({made[2]: int(made[1])})
    return stock


def _command(answer: str) -> Command | None:
    """Read an answer as the environment does."""
    try:
        book = _book()
    except EnvironmentFailure:  # The recipes are not installed here.
        return read_action(answer, parse)
    return read_action(answer, parse, lambda part: known(part, book), environment_spec("textcraft").text_of)


@cache
def _book() -> Book:
    return load()
