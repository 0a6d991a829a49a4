"""Drawings of environments whose observations are texts: searches, web pages, adventures, experiments, Gymnasium."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from server.dashboard.drawings.parts import (
    Choices,
    Facts,
    Line,
    Meter,
    Page,
    Part,
    Passage,
    Passages,
    Screen,
    State,
)
from server.dashboard.drawings.record import Recorded, Taken

RESULTS = re.compile(r"<information>\n(.*?)\n</information>(.*)", re.DOTALL)
PASSAGE = re.compile(r"^Doc (\d+) \(Title: (.*?)\) (.*)$", re.MULTILINE)
ELEMENT = re.compile(r"\[(\d+)\] ([a-z-]+) ?(.*)")
SCORE = re.compile(r"Your score is now (\d+) of (\d+)\.")
SHOWN_LINES = 200
"""Lines of a page or screen that are drawn, chosen by this project; the conversation has the rest."""
FACT_CHARS = 200


def search(recorded: Recorded) -> list[State]:
    """Return the passages that each search found."""
    return [State(), *(State(_passages(step.observation)) for step in recorded.steps)]


def _passages(observation: str) -> tuple[Part, ...]:
    found = RESULTS.search(observation)
    if found is None:
        return ()
    passages = tuple(Passage(int(number), title, text) for number, title, text in PASSAGE.findall(found[1]))
    return (Passages(passages, found[2].strip() if passages else found[1].strip()),)


def web(recorded: Recorded) -> list[State]:
    """Return the web page as the agent read it. The record has its text, not its picture."""
    first = recorded.first.partition("\n\n")[2]
    pages = [first, *(step.observation for step in recorded.steps)]
    return [State((_page(text),) if text else ()) for text in pages]


def _page(text: str) -> Page:
    lines = []
    for line in text.splitlines()[:SHOWN_LINES]:
        element = ELEMENT.fullmatch(line.strip())
        lines.append(Line(element[3], int(element[1]), element[2]) if element else Line(line))
    return Page(tuple(lines))


def textworld(recorded: Recorded) -> list[State]:
    """Return the score, and the commands that were possible after each step."""
    states, most = [State()], None
    for step in recorded.steps:
        if told := SCORE.search(step.observation):
            most = float(told[2])
        score, commands = _number(step.info, "score"), step.info.get("commands")
        parts: list[Part] = []
        if score is not None and most:
            parts.append(Meter("Score", score, 0.0, most))
        elif score is not None:
            parts.append(Facts((("score", f"{score:g}"),)))
        if isinstance(commands, list) and commands:
            parts.append(Choices("Possible commands", tuple(str(command) for command in commands[:SHOWN_LINES])))
        states.append(State(tuple(parts)))
    return states


def sciworld(recorded: Recorded) -> list[State]:
    """Return the simulator's own score after each step."""
    states = [State()]
    for step in recorded.steps:
        score, moves = _number(step.info, "raw_score"), _number(step.info, "moves")
        parts: list[Part] = [] if score is None else [Meter("Score", score, -100.0 if score < 0 else 0.0, 100.0)]
        if moves is not None:
            parts.append(Facts((("moves", f"{moves:g}"),)))
        states.append(State(tuple(parts)))
    return states


def gymnasium(recorded: Recorded) -> list[State]:
    """Return what the environment showed, as a screen if it has several lines, and the return so far."""
    states = [State(_screen(recorded.first))]
    for step in recorded.steps:
        states.append(State((*_screen(step.observation), *_facts(step))))
    return states


def other(recorded: Recorded) -> list[State]:
    """Return what any environment recorded in addition to its observations."""
    return [State(), *(State((*_passages(step.observation), *_facts(step))) for step in recorded.steps)]


def _screen(text: str) -> tuple[Part, ...]:
    lines = text.splitlines()
    return (Screen("\n".join(lines[:SHOWN_LINES])),) if len(lines) > 1 else ()


def _facts(step: Taken) -> tuple[Part, ...]:
    values = tuple((str(name), _shown(value)) for name, value in list(step.info.items())[:SHOWN_LINES])
    return (Facts(values),) if values else ()


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= FACT_CHARS else text[:FACT_CHARS] + "…"


def _number(info: Mapping[str, Any], name: str) -> float | None:
    value = info.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
