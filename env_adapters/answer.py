"""Finds the action in a model's answer, for all environments.

Thoughts are dropped (`thoughts.py`). What the answer marks as its action counts, as does its JSON or its only fence,
otherwise its first line if that is an action, otherwise its last line that is one. An environment says what an action
is (`understand`); the dress of it (`dress.py`) is the same everywhere.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from env_adapters.dress import TAGS, Call, fences, forms, lines, marked, objects, undress, with_input
from env_adapters.thoughts import DROPPED, without_thoughts

T = TypeVar("T")
Understand = Callable[[str], T | None]
"""Parses the bare text of an action; None if it is none."""
LAST_LINES = 50
"""Lines at an answer's end, or at a fence's beginning, that are tried. Chosen by this project."""
VISIBLE_CHARS = 50_000
"""Of a longer answer, the beginning and the end are read. Chosen by this project."""
SAID_CHARS = 200
SAID_WORDS = 20
SIMILAR = 0.6
"""Similarity from which a valid form is shown for what was not understood: difflib's own default."""


def read_action(
    text: str, understand: Understand[T], certain: Understand[T] | None = None, call: Call | None = None
) -> T | None:
    """Return the action in a model's whole answer, or None.

    Args:
        text: the answer.
        understand: parses the bare text of an action. It may be lenient if `certain` is not: it is asked only about
            the text that the answer marks as its action, or else about the first line.
        certain: parses only what is an action beyond doubt, also amid prose; default: `understand`.
        call: turns a written tool call (JSON with a name and arguments) into text; None if there are no tools.
    """
    certain = certain or understand
    visible = _visible(text)
    if (block := marked(visible)) is not None:
        return _in_block(block, understand, certain, call)
    if len(found := _distinct([*fences(visible), *objects(visible)], certain, call)) == 1:
        return found[0]
    rows = lines(visible)
    first = rows[:1] if rows[:1] != [DROPPED] else []
    for row in (*first, *reversed(rows[-LAST_LINES:])):
        if (action := _first(forms(row, call), certain)) is not None:
            return action
    return _first(forms(said(text), call), understand)


def blocks(text: str, tags: tuple[str, ...] = TAGS) -> Iterator[str]:
    """Yield the texts of an answer that may be an action of several lines, most likely first.

    What the answer marks as its action is the only one; otherwise they are its only fence and the whole answer. Used
    where any text can be an action, or where an action has an end of its own.
    """
    visible = without_thoughts(text)
    block, depth = marked(visible, tags), 0
    while block is not None and depth < 3 and (inner := marked(block, tags)) is not None:
        block, depth = inner, depth + 1
    whole = "\n".join(row for row in visible.split("\n") if row != DROPPED) if block is None else block
    if len(found := set(fences(whole))) == 1:
        yield from found
    yield whole.strip()


def said(text: str) -> str:
    """Return the line that an answer gives as its action, whether or not it is one, without its dress."""
    visible = _visible(text)
    block = marked(visible)
    inside = fences(visible) if block is None else []
    shown = block if block is not None else inside[0] if len(inside) == 1 else visible
    return next((undress(row) for row in lines(shown) if row != DROPPED), "")


def nearest(text: str, valid: Iterable[str]) -> str:
    """Return a hint with the valid form that is nearest to what was not understood; empty if none is near."""
    wanted = " ".join(text.lower().split())
    known = {" ".join(form.lower().split()): form for form in valid}
    near = difflib.get_close_matches(wanted, known, n=1, cutoff=SIMILAR) if len(wanted) <= SAID_CHARS else []
    return hint(known[near[0]]) if near and near[0] != wanted else ""


def nearest_form(text: str, valid: Iterable[str]) -> str:
    """Return a hint with the form (`open X`) of what was not understood; empty if it has that form, or none is near.

    The form's verb is the one that was used, or one spelled like it. Words in capitals stand for anything.
    """
    words = text.lower().split()[:SAID_WORDS]
    by_verb: dict[str, list[str]] = {}
    for form in valid:
        by_verb.setdefault(form.split()[0].lower(), []).append(form)
    verb = next(iter(difflib.get_close_matches(words[0], by_verb, n=1, cutoff=SIMILAR)), "") if words else ""
    if not verb or any(_has_form(" ".join(words), form) for form in by_verb[verb]):
        return ""
    near = difflib.get_close_matches(" ".join([verb, *words[1:]]), by_verb[verb], n=1, cutoff=0.0)
    return hint(near[0])


def _has_form(text: str, form: str) -> bool:
    parts = (".+" if word.isupper() else re.escape(word) for word in form.split())
    return re.fullmatch(" ".join(parts), text) is not None


def hint(form: str) -> str:
    """Return the line that shows a valid form, to be put after what was said about an action."""
    return f"\nDid you mean: {form}"


def _visible(text: str) -> str:
    """Return an answer without its thoughts, and without the middle of one that is very long."""
    visible = without_thoughts(text)
    if len(visible) <= VISIBLE_CHARS:
        return visible
    return f"{visible[: VISIBLE_CHARS // 2]}\n{visible[-VISIBLE_CHARS // 2 :]}"


def _in_block(
    block: str, understand: Understand[T], certain: Understand[T], call: Call | None, depth: int = 0
) -> T | None:
    """Return the action in the text that an answer marks as its action."""
    if depth < 3 and (inner := marked(block)) is not None:
        return _in_block(inner, understand, certain, call, depth + 1)
    found = _distinct([*fences(block), *objects(block)], certain, call)
    for texts, parse in (
        (with_input(block, call), understand),
        (forms(block, call), certain),
        (forms(block, call), understand if not found else certain),
    ):
        if (action := _first(texts, parse)) is not None:
            return action
    return found[0] if found else None


def _first(texts: Iterable[str], parse: Understand[T]) -> T | None:
    return next((action for text in texts if text and (action := parse(text)) is not None), None)


def _distinct(inside: Iterable[str], parse: Understand[T], call: Call | None) -> list[T]:
    """Return the actions in fences or JSON objects, each text once."""
    found: list[T] = []
    for content in dict.fromkeys(inside):
        rows = [content, *lines(content)[:LAST_LINES]] if "\n" in content else [content]
        action = next((action for row in rows if (action := _first(forms(row, call), parse)) is not None), None)
        if action is not None:
            found.append(action)
    return found
