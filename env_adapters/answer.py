"""Finds the action in a model's answer, for environments whose actions are one line of text."""

from __future__ import annotations

import re

DRESS = " \t`'\"*>."
"""Characters that models put around an action."""


def read_action(text: str) -> str:
    """Return the text after the first `Action:` of an answer, otherwise its first non-empty line, in lowercase."""
    lines = [line for line in (line.strip(DRESS) for line in text.splitlines()) if line]
    for at, line in enumerate(lines):
        if found := re.match(r"action\W*:(.*)", line, re.IGNORECASE):
            lines = [found[1].strip(DRESS), *lines[at + 1 :]]
            break
    return " ".join(next(filter(None, lines), "").lower().split())
