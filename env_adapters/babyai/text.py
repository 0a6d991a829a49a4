"""BabyAI in words: the agent's view from its pose, and the actions that are possible there.

It turns a grid and a pose into objects with names and distances, macro actions into sequences of minigrid's primitive
actions, and a view into the observation's text, and it reads the action in an answer. It does not need minigrid: a grid
is a list of names, so the solver can evaluate hypothetical worlds. It follows AgentGym's text layer (same names of
objects and actions). Two choices are this project's: the wording, and that paths use only cells which are visibly free,
so that every offered action works.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import NamedTuple

LEFT, RIGHT, FORWARD, PICK_UP, DROP, TOGGLE = range(6)
"""Minigrid's primitive actions."""
AHEAD = ((1, 0), (0, 1), (-1, 0), (0, -1))
"""The (x, y) of one cell ahead, by heading: minigrid's right, down, left, up."""
VIEW = 7
"""Minigrid's view: 7 cells deep, the agent's own row first, and 3 to each side."""
SIDE = VIEW // 2
_NEAR = ((1, 0), (0, 1), (-1, 0), (0, -1))
"""One cell (ahead, right, back, left) as (cells ahead, cells to the right), by turns to the right."""
_TURNS: tuple[list[int], ...] = ([], [RIGHT], [RIGHT, RIGHT], [LEFT])


class Pose(NamedTuple):
    """The agent's position and heading."""

    x: int
    y: int
    heading: int

    def front(self) -> tuple[int, int]:
        """Return the cell in front."""
        dx, dy = AHEAD[self.heading]
        return self.x + dx, self.y + dy


@dataclass(frozen=True, slots=True)
class World:
    """A grid, row by row. A cell is None, `wall`, or an object such as `red ball` or `grey closed door`."""

    width: int
    cells: list[str | None]

    def at(self, x: int, y: int) -> str | None:
        """Return the content of a cell; outside the grid everything is wall."""
        if 0 <= x < self.width and 0 <= y < len(self.cells) // self.width:
            return self.cells[y * self.width + x]
        return "wall"


class Thing(NamedTuple):
    """A visible object."""

    name: str
    """The name, numbered by distance: `red ball 1` is the nearest."""
    ahead: int
    right: int
    """Cells to the right; negative to the left."""
    place: tuple[int, int]


class Move(NamedTuple):
    """A possible macro action."""

    verb: str
    place: tuple[int, int] | None
    """The cell to go to, pick up from, drop into or toggle."""
    primitives: list[int]


@dataclass(frozen=True, slots=True)
class Sight:
    """The view from one pose, and the actions that are possible there."""

    things: list[Thing]
    walls: list[tuple[int, str]]
    """Distance and direction of the visible walls straight ahead, to the left and to the right."""
    doorway: str | None
    """The open door that the agent stands in."""
    moves: dict[str, Move]
    """Moves by the action's text, in the order in which they are listed."""


def free(cell: str | None) -> bool:
    """Return whether the agent can walk on a cell."""
    return cell is None or cell.endswith("open door")


def _opaque(cell: str | None) -> bool:
    return cell is not None and (cell == "wall" or cell.endswith(("closed door", "locked door")))


def opens(cell: str | None, carried: str | None) -> bool:
    """Return whether toggling a cell has an effect: a locked door needs its key in hand, a box opens and disappears."""
    if cell is None or not cell.endswith("locked door"):
        return cell is not None and cell.endswith((" door", " box"))
    return carried == f"{cell.split()[0]} key"


def visible(world: World, pose: Pose) -> dict[tuple[int, int], str | None]:
    """Return the visible cells by (ahead, right), with minigrid's rule of visibility."""
    (dx, dy), (rx, ry) = AHEAD[pose.heading], AHEAD[(pose.heading + 1) % 4]
    cells: dict[tuple[int, int], str | None] = {}
    lit = {0}
    for ahead in range(VIEW):
        x, y = pose.x + ahead * dx, pose.y + ahead * dy
        row = [world.at(x + right * rx, y + right * ry) for right in range(-SIDE, SIDE + 1)]
        beyond: set[int] = set()
        for step in (1, -1):
            for right in range(-SIDE * step, SIDE * step, step):
                if right in lit and not _opaque(row[right + SIDE]):
                    lit.add(right + step)
                    beyond.update((right, right + step))
        cells.update(((ahead, right), row[right + SIDE]) for right in lit)
        lit = beyond
    return cells


def look(world: World, pose: Pose, carried: str | None) -> Sight:
    """Return the view and the possible actions of an agent that carries `carried`."""
    (dx, dy), (rx, ry) = AHEAD[pose.heading], AHEAD[(pose.heading + 1) % 4]
    cells = visible(world, pose)
    doorway = cells.pop((0, 0))
    numbers = Counter[str]()
    things: list[Thing] = []
    spots = [spot for spot, cell in cells.items() if cell is not None and cell != "wall"]
    for ahead, right in sorted(spots, key=lambda spot: (spot[0] + abs(spot[1]), spot)):
        numbers[cell := cells[ahead, right] or ""] += 1
        place = (pose.x + ahead * dx + right * rx, pose.y + ahead * dy + right * ry)
        things.append(Thing(f"{cell} {numbers[cell]}", ahead, right, place))
    walls: list[tuple[int, str]] = []
    for direction, (step, side) in zip(("ahead", "left", "right"), ((1, 0), (0, -1), (0, 1)), strict=True):
        line = (n for n in range(1, VIEW) if cells.get((n * step, n * side)) == "wall")
        walls.extend((n, direction) for n in list(line)[:1])
    return Sight(things, walls, doorway, _moves(things, cells, pose, carried))


def _moves(
    things: list[Thing], cells: dict[tuple[int, int], str | None], pose: Pose, carried: str | None
) -> dict[str, Move]:
    front, facing = pose.front(), cells.get((1, 0))
    moves = {"turn left": Move("turn left", None, [LEFT]), "turn right": Move("turn right", None, [RIGHT])}
    if free(facing):
        moves["move forward"] = Move("move forward", None, [FORWARD])
    if opens(facing, carried):
        moves["toggle"] = Move("toggle", front, [TOGGLE])
    if carried and facing is None:
        moves["drop"] = Move("drop", front, [DROP])
    paths = _paths(cells)
    for thing in things:
        if (path := _path_to(thing, paths)) is None:
            continue
        cell = thing.name.rpartition(" ")[0]
        if path:
            moves[f"go to {thing.name}"] = Move("go to", thing.place, path)
        if not cell.endswith("door"):
            if not carried:
                moves[f"pick up {thing.name}"] = Move("pick up", thing.place, [*path, PICK_UP])
        elif cell.endswith("open door"):
            moves[f"go through {thing.name}"] = Move("go through", thing.place, [*path, FORWARD, FORWARD])
        elif opens(cell, carried):
            primitives = [*path, TOGGLE, FORWARD, FORWARD]
            moves[f"toggle and go through {thing.name}"] = Move("toggle and go through", thing.place, primitives)
    return moves


_Paths = dict[tuple[int, int], tuple[tuple[int, int], int, int]]
"""By reachable cell: the previous cell, the direction between the two, and the distance."""


def _paths(cells: dict[tuple[int, int], str | None]) -> _Paths:
    """Find the shortest path to each cell over visibly free cells, straight if possible."""
    paths: _Paths = {(0, 0): ((0, 0), 0, 0)}
    queue = deque([(0, 0)])
    while queue:
        here = queue.popleft()
        distance = paths[here][2] + 1
        for turn, (ahead, right) in enumerate(_NEAR):
            there = (here[0] + ahead, here[1] + right)
            if there not in paths and there in cells and free(cells[there]):
                paths[there] = (here, turn, distance)
                queue.append(there)
    return paths


def _path_to(thing: Thing, paths: _Paths) -> list[int] | None:
    """Return the primitive actions after which the agent faces an adjacent object, or None."""
    near = [(turn, (thing.ahead - ahead, thing.right - right)) for turn, (ahead, right) in enumerate(_NEAR)]
    reachable = [(paths[cell][2], turn, cell) for turn, cell in near if cell in paths]
    if not reachable:
        return None
    _, turn, cell = min(reachable)
    turns = [turn]
    while cell != (0, 0):
        cell, turn, _ = paths[cell]
        turns.append(turn)
    primitives, heading = list[int](), 0
    for turn in reversed(turns):
        primitives += [*_TURNS[(turn - heading) % 4], FORWARD]
        heading = turn
    return primitives[:-1]


def _where(ahead: int, right: int) -> str:
    side = f"{abs(right)} {'right' if right > 0 else 'left'}"
    return f"{ahead} ahead" if not right else f"{ahead} ahead, {side}" if ahead else side


def describe(sight: Sight, carried: str | None) -> str:
    """Return the observation: objects, walls, the carried object, and the possible actions."""
    things = "; ".join(f"{thing.name} ({_where(thing.ahead, thing.right)})" for thing in sight.things)
    lines = [f"You see: {things or 'nothing'}."]
    if sight.walls:
        lines.append(f"Walls: {', '.join(f'{distance} {direction}' for distance, direction in sight.walls)}.")
    if sight.doorway:
        lines.append(f"You stand in the {sight.doorway}.")
    lines.append(f"You carry: {carried or 'nothing'}.")
    return f"{' '.join(lines)}\nActions: {', '.join(sight.moves)}"


def find_move(action: str, moves: dict[str, Move]) -> str | None:
    """Return the possible action that an answer names; an object without a number is the nearest one."""
    words = action.lower().strip(" .[]()`'\"*").replace("pickup ", "pick up ").split()
    plain = " ".join(word for word in words if word != "the")
    return next((name for name in (plain, f"{plain} 1") if name in moves), None)
