"""What the audit reads in the answers of a turn: broken calls, questions, and repeated text. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

WINDOW = 16
"""Characters of text that count as repeated together: longer than most words, in languages without spaces too."""
LEAST_COPIED = 40
"""Windows of an answer below which it is no copy of the one before: short actions are repeated for good reasons."""
COPIED = 0.9
"""Share of an answer's distinct windows with which it is a copy of the one before."""
QUESTION_MARKS = ("?", "？", "؟", "⁇")
THOUGHTS_END = "</think>"


def calls_well(calls: Sequence[Any], opened: bool) -> bool | None:
    """Return whether an answer's tool calls can be parsed and have named arguments; None if it calls no tool.

    Args:
        calls: the recorded calls.
        opened: whether the answer's text opens a call, which could then not be parsed.
    """
    if not calls:
        return False if opened else None
    try:
        return all(isinstance(json.loads(call["function"]["arguments"]), dict) for call in calls)
    except (ValueError, KeyError, TypeError):
        return False


def asks(end: str, understood: bool) -> bool:
    """Return whether an answer without a tool call asks instead of acting.

    Args:
        end: the end of the answer.
        understood: whether the environment found an action in the answer. If so, only an answer that ends with the
            question counts.
    """
    lines = end.rpartition(THOUGHTS_END)[2].split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "").rstrip(" \t\r*_`\"')]»”’")
    return last.endswith(QUESTION_MARKS) or (not understood and any(mark in last for mark in QUESTION_MARKS))


def repetition(answers: Sequence[str]) -> float | None:
    """Return the share of text that repeats the same answer, or copies the answer before; None without enough text.

    Earlier answers do not count: episodes with more turns would repeat more.

    Args:
        answers: the beginnings of an episode's answers, in order.
    """
    repeated, total = 0, 0
    before: set[str] = set()
    for answer in answers:
        plain = " ".join(answer.split())
        count = max(0, len(plain) - WINDOW + 1)
        distinct = {plain[start : start + WINDOW] for start in range(count)}
        copied = count >= LEAST_COPIED and len(distinct & before) >= COPIED * len(distinct)
        repeated += count if copied else count - len(distinct)
        total += count
        before = distinct
    return repeated / total if total else None
