"""The tree of an episode's turns, for episodes whose agent went back or asked several things at once."""

from __future__ import annotations

from dataclasses import dataclass

from upturn.wire import EpisodeView

ROW, LANE, EDGE = 26, 22, 14
"""Pixels between rows, between lanes, and around the drawing."""
MOST_LANES = 12
"""Further lanes lie on the last one, so that the drawing stays readable; chosen by this project."""
MOST_TURNS = 1000
"""Turns of the largest tree that is drawn."""


@dataclass(frozen=True, slots=True)
class Node:
    """A turn in the tree."""

    index: int
    """The turn's index."""
    x: int
    y: int
    path: str
    """The line from the turn that it extends, as an SVG path; empty for a beginning."""
    trainable: bool
    branches_off: bool
    """It extends another turn than the one before it."""
    says: str


@dataclass(frozen=True, slots=True)
class Tree:
    """The drawing."""

    nodes: tuple[Node, ...]
    width: int
    height: int


def tree_of(view: EpisodeView) -> Tree | None:
    """Return the tree of an episode's turns, or None if they form one chain, or are too many to draw."""
    turns = view.turns
    chain = [None, *(turn.index for turn in turns[:-1])]
    if not 2 <= len(turns) <= MOST_TURNS or [turn.extends for turn in turns] == chain[: len(turns)]:
        return None
    lane_of, tips = dict[int, int](), list[int]()
    row_of = {turn.index: row for row, turn in enumerate(turns)}
    nodes = []
    for row, turn in enumerate(turns):
        parent = turn.extends if turn.extends in lane_of else None
        if parent is not None and parent in tips:
            lane = tips.index(parent)
            tips[lane] = turn.index
        else:
            lane = len(tips)
            tips.append(turn.index)
        lane_of[turn.index] = lane
        x, y = _place(lane, row)
        path = ""
        if parent is not None:
            from_x, from_y = _place(lane_of[parent], row_of[parent])
            path = f"M{from_x} {from_y}C{from_x} {from_y + ROW} {x} {y - ROW} {x} {y}"
        off = row > 0 and turn.extends != turns[row - 1].index
        begins = "begins a conversation" if parent is None else f"extends turn {parent}"
        nodes.append(Node(turn.index, x, y, path, turn.trainable, off, f"Turn {turn.index} {begins}"))
    width = 2 * EDGE + LANE * (min(len(tips), MOST_LANES) - 1)
    return Tree(tuple(nodes), width, 2 * EDGE + ROW * (len(turns) - 1))


def _place(lane: int, row: int) -> tuple[int, int]:
    return EDGE + LANE * min(lane, MOST_LANES - 1), EDGE + ROW * row
