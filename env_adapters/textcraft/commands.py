"""TextCraft's commands: parsing them, and the command that is nearest to one that was refused."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from env_adapters.answer import hint
from env_adapters.textcraft.recipes import Book

GET = ("get", "take", "collect", "gather", "obtain", "grab", "pick up", "mine", "find", "fetch", "harvest")
CRAFT = ("craft", "make", "build", "create")
"""Words that players use for the two commands."""
SIMILAR = 0.8
"""Similarity from which a name is taken for a misspelled item; chosen by this project."""


@dataclass(frozen=True, slots=True)
class Part:
    """An ingredient; without its own count, `item` is the whole text."""

    count: int | None
    item: str


@dataclass(frozen=True, slots=True)
class Command:
    """One command."""

    verb: str
    text: str
    item: str = ""
    count: int = 0
    parts: tuple[Part, ...] = ()


def parse(text: str) -> Command | None:
    """Return the command that a text is, whether or not its items exist; otherwise None."""
    text = " ".join(text.lower().split())
    if text == "inventory":
        return Command("inventory", text)
    if found := re.fullmatch(r"get ([0-9]{1,6}) (.+)", text):
        return Command("get", text, found[2], int(found[1]))
    if found := re.fullmatch(r"craft (?:[0-9]+ )?(.+?) using (.+)", text):
        return Command("craft", text, found[1], parts=tuple(_parts(found[2])))
    return None


def _parts(text: str) -> Iterable[Part]:
    for part in text.split(","):
        found = re.fullmatch(r"([0-9]{1,6}) (.+)", part.strip())
        yield Part(int(found[1]), found[2]) if found else Part(None, part.strip())


def known(text: str, book: Book) -> Command | None:
    """Return the command that a text is, if all of its items exist."""
    command = parse(text)
    if command is None or command.verb == "inventory":
        return command
    names = [command.item, *(part.item for part in command.parts)]
    return command if all(name in book.items or name in book.tags for name in names) else None


def suggestion(text: str, commands: list[str], book: Book) -> str:
    """Return a hint with the command that was probably meant, or an empty text.

    Args:
        text: what was said.
        commands: the crafting commands of the prompt. Others are not shown.
        book: the items that exist.
    """
    wrong = " ".join(text.lower().split())
    text = " ".join(wrong.replace("_", " ").replace("minecraft:", "").split())
    for verbs, meant in ((CRAFT, _craft), (GET, _get)):
        if found := re.match(rf"(?:{'|'.join(verbs)}) (?=\S)", text):
            form = meant(text[found.end() :], commands, book)
            return hint(form) if form and form != wrong else ""
    if re.fullmatch(r"(?:open |check |show |look at |view )?(?:my |the )?(?:inventory|inv)(?:\(\)|\[\])?", text):
        return hint("inventory")
    return ""


def _craft(rest: str, commands: list[str], book: Book) -> str | None:
    """Return the prompt's command for an item; if there are several, the one nearest to what was said."""
    by_item: dict[str, list[str]] = {}
    for command in commands:
        if parsed := parse(command):
            by_item.setdefault(parsed.item, []).append(command)
    item = _nearest_item(re.sub(r"^[0-9]+ ", "", rest.partition(" using ")[0]), by_item)
    if item is None:
        return None
    near = difflib.get_close_matches(f"craft {rest}"[:200], by_item[item], n=1, cutoff=0.0)
    return near[0]


def _get(rest: str, commands: list[str], book: Book) -> str | None:
    """Return a `get` of the item, if no command crafts it."""
    count, item = re.fullmatch(r"(?:([0-9]{1,6}) |an? |some |the )?(.*)", rest).groups()  # type: ignore[union-attr]
    near = _nearest_item(item, sorted(book.items - book.tags))
    return None if near is None or near in book.recipes else f"get {max(1, int(count or 1))} {near}"


def _nearest_item(name: str, items: Iterable[str]) -> str | None:
    """Return the item that a name means: itself, in the other number, or misspelled."""
    near = difflib.get_close_matches(name[:100], items, n=1, cutoff=SIMILAR)
    return near[0] if near else None
