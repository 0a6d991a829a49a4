"""BabyAI's grid as the observation describes it: no cell is drawn that the text does not name.

The record has no map, only what the agent was told from where it stood, so each drawing is that view. Minigrid's view
has 7 by 7 cells (`env_adapters/babyai/text.py` writes the text).
"""

from __future__ import annotations

import re

from env_adapters.babyai.text import SIDE, VIEW
from server.dashboard.drawings.parts import Choices, Grid, Part, Placed, State
from server.dashboard.drawings.record import Recorded

SIGHT = re.compile(
    r"^You see: (?P<things>[^\n]*?)\."
    r"(?: Walls: (?P<walls>[^.\n]*)\.)?"
    r"(?: You stand in the (?P<doorway>[^.\n]*)\.)?"
    r" You carry: (?P<carried>[^.\n]*)\.$"
    r"(?:\nActions: (?P<actions>[^\n]*))?",
    re.MULTILINE,
)
THING = re.compile(
    r"(?P<name>(?P<color>[a-z]+) (?:(?P<state>open|closed|locked) )?(?P<shape>[a-z]+) \d+)"
    r" \((?:(?P<ahead>\d+) ahead)?(?:, )?(?:(?P<side>\d+) (?P<hand>left|right))?\)"
)
WALL = re.compile(r"(\d+) (ahead|left|right)")
NAMED = re.compile(r"(?P<color>[a-z]+) (?:(?P<state>open|closed|locked) )?(?P<shape>[a-z]+)")
NOTE = "Drawn from the observation. Cells without a mark are free, or the agent did not see them."


def states(recorded: Recorded) -> list[State]:
    """Return the state before the first step, and after each step."""
    return [_state(text) for text in (recorded.first, *(step.observation for step in recorded.steps))]


def _state(text: str) -> State:
    sight = SIGHT.search(text)
    if sight is None:
        return State()
    things = [placed for found in THING.finditer(sight["things"]) if (placed := _placed(found)) is not None]
    for distance, direction in WALL.findall(sight["walls"] or ""):
        steps = int(distance)
        ahead, right = (steps, 0) if direction == "ahead" else (0, steps if direction == "right" else -steps)
        if ahead < VIEW and abs(right) <= SIDE:
            things.append(Placed(f"wall, {distance} {direction}", "grey", "wall", "", SIDE + right, VIEW - 1 - ahead))
    parts: list[Part] = [Grid(VIEW, tuple(things), _here(sight["carried"]), _here(sight["doorway"]))]
    if sight["actions"]:
        parts.append(Choices("Possible actions", tuple(sight["actions"].split(", "))))
    return State(tuple(parts), NOTE)


def _placed(found: re.Match[str]) -> Placed | None:
    ahead, right = int(found["ahead"] or 0), int(found["side"] or 0) * (-1 if found["hand"] == "left" else 1)
    if ahead >= VIEW or abs(right) > SIDE:
        return None
    return Placed(found["name"], found["color"], found["shape"], found["state"] or "", SIDE + right, VIEW - 1 - ahead)


def _here(text: str | None) -> Placed | None:
    """Return what the agent carries or stands in, at the agent's own place."""
    found = NAMED.fullmatch(text or "")
    if found is None or text == "nothing":
        return None
    return Placed(found[0], found["color"], found["shape"], found["state"] or "", SIDE, VIEW - 1)
