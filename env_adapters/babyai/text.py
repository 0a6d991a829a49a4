"""BabyAI in words: what an agent sees from where it stands, and the actions that are possible there.

Responsible for a grid and a pose becoming things with names and distances, macro actions as sequences of minigrid's
primitive ones, the observation's text, and reading an action out of an answer. It needs no minigrid: a grid is a list
of names, so the solver can look around in worlds that are not there yet. The model is AgentGym's text layer (same
names of things and actions); the wording is ours, and so is that a path leads only over cells that are seen to be
free, so that what is offered also works.
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
    """Where the agent stands and where it looks."""

    x: int
    y: int
    heading: int

    def front(self) -> tuple[int, int]:
        """Return the cell in front."""
        dx, dy = AHEAD[self.heading]
        return self.x + dx, self.y + dy


@dataclass(frozen=True, slots=True)
class World:
    """A grid: per cell None, `wall`, or a thing such as `red ball` or `grey closed door`, row by row."""

    width: int
    cells: list[str | None]

    def at(self, x: int, y: int) -> str | None:
        """Return what is in a cell; all is wall outside."""
        if 0 <= x < self.width and 0 <= y < len(self.cells) // self.width:
            return self.cells[y * self.width + x]
        return "wall"


class Thing(NamedTuple):
    """Something that is seen."""

    name: str
    """What it is, numbered by nearness: `red ball 1`."""
    ahead: int
    right: int
    """Cells to the right; negative to the left."""
    place: tuple[int, int]


class Move(NamedTuple):
    """A macro action that is possible."""

    verb: str
    place: tuple[int, int] | None
    """The cell that is gone to, picked up from, dropped into or toggled."""
    primitives: list[int]


@dataclass(frozen=True, slots=True)
class Sight:
    """What is seen, and can be done, from one pose."""

    things: list[Thing]
    walls: list[tuple[int, str]]
    """Distance and direction of the walls that are seen straight ahead, to the left and to the right."""
    doorway: str | None
    """The open door that the agent stands in."""
    moves: dict[str, Move]
    """By the action's text, in the order in which they are listed."""


def free(cell: str | None) -> bool:
    """Say whether the agent can walk on it."""
    return cell is None or cell.endswith("open door")


def _opaque(cell: str | None) -> bool:
    return cell is not None and (cell == "wall" or cell.endswith(("closed door", "locked door")))


def opens(cell: str | None, carried: str | None) -> bool:
    """Say whether toggling it does something: a locked door needs its key in hand; a box opens, and is gone."""
    if cell is None or not cell.endswith("locked door"):
        return cell is not None and cell.endswith((" door", " box"))
    return carried == f"{cell.split()[0]} key"


def visible(world: World, pose: Pose) -> dict[tuple[int, int], str | None]:
    """Return the cells that are seen by (ahead, right), with minigrid's rule of what hides what."""
    (dx, dy), (rx, ry) = AHEAD[pose.heading], AHEAD[(pose.heading + 1) % 4]
    seen: dict[tuple[int, int], str | None] = {}
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
        seen.update(((ahead, right), row[right + SIDE]) for right in lit)
        lit = beyond
    return seen


def look(world: World, pose: Pose, carried: str | None) -> Sight:
    """Return what an agent that carries something sees and can do."""
    (dx, dy), (rx, ry) = AHEAD[pose.heading], AHEAD[(pose.heading + 1) % 4]
    seen = visible(world, pose)
    doorway = seen.pop((0, 0))
    numbers = Counter[str]()
    things: list[Thing] = []
    spots = [spot for spot, cell in seen.items() if cell is not None and cell != "wall"]
    for ahead, right in sorted(spots, key=lambda spot: (spot[0] + abs(spot[1]), spot)):
        numbers[cell := seen[ahead, right] or ""] += 1
        place = (pose.x + ahead * dx + right * rx, pose.y + ahead * dy + right * ry)
        things.append(Thing(f"{cell} {numbers[cell]}", ahead, right, place))
    walls: list[tuple[int, str]] = []
    for direction, (step, side) in zip(("ahead", "left", "right"), ((1, 0), (0, -1), (0, 1)), strict=True):
        line = (n for n in range(1, VIEW) if seen.get((n * step, n * side)) == "wall")
        walls.extend((n, direction) for n in list(line)[:1])
    return Sight(things, walls, doorway, _moves(things, seen, pose, carried))


def _moves(
    things: list[Thing], seen: dict[tuple[int, int], str | None], pose: Pose, carried: str | None
) -> dict[str, Move]:
    front, facing = pose.front(), seen.get((1, 0))
    moves = {"turn left": Move("turn left", None, [LEFT]), "turn right": Move("turn right", None, [RIGHT])}
    if free(facing):
        moves["move forward"] = Move("move forward", None, [FORWARD])
    if opens(facing, carried):
        moves["toggle"] = Move("toggle", front, [TOGGLE])
    if carried and facing is None:
        moves["drop"] = Move("drop", front, [DROP])
    paths = _paths(seen)
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
"""By cell that can be reached: the cell before it, the direction between them, and the distance."""


def _paths(seen: dict[tuple[int, int], str | None]) -> _Paths:
    """Find the shortest way to each cell over cells that are seen to be free, going straight where it can."""
    paths: _Paths = {(0, 0): ((0, 0), 0, 0)}
    queue = deque([(0, 0)])
    while queue:
        here = queue.popleft()
        distance = paths[here][2] + 1
        for turn, (ahead, right) in enumerate(_NEAR):
            there = (here[0] + ahead, here[1] + right)
            if there not in paths and there in seen and free(seen[there]):
                paths[there] = (here, turn, distance)
                queue.append(there)
    return paths


def _path_to(thing: Thing, paths: _Paths) -> list[int] | None:
    """Return the primitive actions after which a thing is right in front, or None."""
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
    """Return the observation: things, walls, what is carried, and the possible actions."""
    things = "; ".join(f"{thing.name} ({_where(thing.ahead, thing.right)})" for thing in sight.things)
    lines = [f"You see: {things or 'nothing'}."]
    if sight.walls:
        lines.append(f"Walls: {', '.join(f'{distance} {direction}' for distance, direction in sight.walls)}.")
    if sight.doorway:
        lines.append(f"You stand in the {sight.doorway}.")
    lines.append(f"You carry: {carried or 'nothing'}.")
    return f"{' '.join(lines)}\nActions: {', '.join(sight.moves)}"


def find_move(action: str, moves: dict[str, Move]) -> str | None:
    """Return the possible action that is meant; a thing without a number is the nearest."""
    words = action.strip(" .[]()`'\"*").replace("pickup ", "pick up ").split()
    plain = " ".join(word for word in words if word != "the")
    return next((name for name in (plain, f"{plain} 1") if name in moves), None)
