"""BabyAI's solver: a winning plan of macro actions, made with full knowledge of the map.

It splits the goal into parts and plays each part on a copy of the level. A breadth-first search over poses finds the
fewest actions to the next object; if the way is blocked, it first unlocks the door (fetching the key, out of its box if
necessary) or moves the obstacle. Minigrid's own bot is not used: it never ends on some maps, cannot open boxes, and
plans primitive actions. Plans are short, but not always the shortest.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

from env_adapters.babyai.level import Level, act, pose_of, sight_of, world_of
from env_adapters.babyai.text import AHEAD, FORWARD, LEFT, RIGHT, TOGGLE, Move, Pose, World, free, look, opens

MAX_POSES = 20_000
"""Maximum number of poses that one plan searches. Measured: no task needs more than 2,500."""
ATTEMPTS = 20
"""Attempts at one part of the goal, or at one route; each attempt removes an obstacle."""
_LOCKED, _BLOCKED = 40, 20
"""Cost, in cells, of a locked door and of an obstacle when a route is chosen."""
_WALKS = ("turn left", "turn right", "move forward", "go to", "go through", "toggle and go through")

Place = tuple[int, int]
_Done = Callable[[], bool]


class _Won(Exception):
    """The copy of the level has been won."""


def solve(level: Level) -> list[str]:
    """Return actions that win the level from its current state, which is not changed.

    Raises:
        NotImplementedError: there is no plan within the bounds.
    """
    plans, reason = list[list[str]](), ""
    for backwards in (False, True) if " and " in level.mission else (False,):
        solver = _Solver(deepcopy(level))
        try:
            for part, done in _parts(solver.level.instrs, backwards):
                solver.achieve(part, done)
            reason = "every part was done, but the goal was not reached"
        except _Won:
            plans.append(solver.plan)
        except NotImplementedError as error:
            reason = str(error)
    if not plans:
        raise NotImplementedError(f"no plan for {level.mission!r}: {reason}")
    return min(plans, key=len)


def _parts(instr: Any, backwards: bool, done: _Done = lambda: False) -> Iterator[tuple[Any, _Done]]:
    """Yield a goal's elementary parts in a valid order, each with a predicate of its completion."""
    kind = type(instr).__name__
    if kind not in ("BeforeInstr", "AfterInstr", "AndInstr"):
        yield instr, done
        return
    parts = [(instr.instr_a, lambda: instr.a_done == "success"), (instr.instr_b, lambda: instr.b_done == "success")]
    if kind == "AfterInstr" or (kind == "AndInstr" and backwards):
        parts.reverse()
    for part, its_done in parts:
        yield from _parts(part, backwards, its_done)


class _Solver:
    """A copy of a level, and the actions taken in it so far."""

    def __init__(self, level: Level) -> None:
        self.level = level
        self.plan: list[str] = []
        self._poses = 0

    def achieve(self, instr: Any, done: _Done) -> None:
        """Complete one elementary part of the goal."""
        for _ in range(ATTEMPTS):
            if done():
                return
            kind = type(instr).__name__
            if kind == "GoToInstr":
                self._go("go to", {_place(place) for place in instr.desc.obj_poss})
            elif kind == "OpenInstr":
                doors = self._places(lambda thing: _among(thing, instr.desc.obj_set))
                self._go("toggle", {place for place in doors if not free(self._at(place))} or doors)
            elif kind == "PickupInstr":
                if _among(self.level.carrying, instr.desc.obj_set):
                    self._lay_down(set())
                self._go("pick up", self._places(lambda thing: _among(thing, instr.desc.obj_set)))
            else:
                self._put_next(instr.desc_move.obj_set, {_place(place) for place in instr.desc_fixed.obj_poss})
        if not done():
            raise NotImplementedError(f"{kind} takes more than {ATTEMPTS} attempts")

    def _put_next(self, things: list[Any], fixed: set[Place]) -> None:
        """Pick up one of the objects, or put it down next to a fixed one, after clearing the way and a free cell."""
        near = {(x + dx, y + dy) for x, y in fixed for dx, dy in AHEAD}
        empty = {place for place in near if self._at(place) is None}
        carries_one = _among(self.level.carrying, things)
        if not empty:
            self._go("pick up", self._places(lambda thing: thing.can_pickup()) & near)
            self._lay_down(near)
        elif carries_one:
            self._go("drop", empty)
        else:
            there = self._places(lambda thing: _among(thing, things))
            taken = self._route(pose_of(self.level)[:2], there)
            way = self._route(taken[-1], empty) if taken else None
            blocked = next((place for place in way[:-1] if not self._passable(place)), None) if way else None
            if way and blocked:
                self._clear(blocked, way, frozenset([blocked]))
            else:
                self._go("pick up", there)

    def _at(self, place: Place) -> str | None:
        return world_of(self.level).at(*place)

    def _carried(self) -> str | None:
        thing = self.level.carrying
        return f"{thing.color} {thing.type}" if thing else None

    def _places(self, wanted: Callable[[Any], bool]) -> set[Place]:
        """Return the cells of the objects that satisfy a predicate."""
        width = self.level.width
        return {(n % width, n // width) for n, thing in enumerate(self.level.grid.grid) if thing and wanted(thing)}

    def _do(self, actions: list[str]) -> None:
        for action in actions:
            reward, terminated, truncated = act(self.level, sight_of(self.level).moves[action].primitives)
            self.plan.append(action)
            if terminated and reward > 0:
                raise _Won
            if terminated or truncated:
                raise NotImplementedError("the plan fails" if terminated else "the plan takes too long")

    def _go(self, verb: str, places: set[Place], busy: frozenset[Place] = frozenset()) -> None:
        """Go to, pick up, toggle or drop at one of the places, clearing the way.

        Places in `busy` are already being cleared, so the route must not lead through them.
        """
        for _ in range(ATTEMPTS):
            carried = self._carried()
            if verb == "pick up" and carried:
                self._lay_down({*(self._route(pose_of(self.level)[:2], places, busy) or ())})
            if (steps := self._search(verb, places)) is not None:
                return self._do(steps)
            route = self._route(pose_of(self.level)[:2], places, busy)
            if not route:
                raise NotImplementedError(f"no route to {verb} at {sorted(places)}")
            on_the_way = route if verb == "toggle" else route[:-1]  # Toggling a locked door needs its key.
            blocked = next((place for place in on_the_way if not self._passable(place)), None)
            if blocked is None:
                raise NotImplementedError(f"the route to {verb} at {route[-1]} is free, but no actions lead there")
            self._clear(blocked, route, busy | {blocked})
            if verb == "drop" and self._carried() != carried:
                return None  # It was put down to clear the way; the caller picks it up again.
        raise NotImplementedError(f"clearing the way to {verb} takes more than {ATTEMPTS} attempts")

    def _passable(self, place: Place) -> bool:
        cell = self._at(place)
        return free(cell) or bool(cell and cell.endswith("door") and opens(cell, self._carried()))

    def _clear(self, place: Place, route: list[Place], busy: frozenset[Place]) -> None:
        """Unlock the door, or move the object, that blocks the way."""
        cell = self._at(place) or ""
        if not cell.endswith("door"):
            self._go("pick up", {place}, busy)
            return self._lay_down(set(route))
        key = f"{cell.split()[0]} key"
        if self._carried() != key:

            def is_key(thing: Any) -> bool:
                return bool(thing) and f"{thing.color} {thing.type}" == key

            if not self._places(is_key):
                self._go("toggle", self._places(lambda thing: is_key(thing.contains)), busy)
            self._go("pick up", self._places(is_key), busy)
        return self._go("toggle", {place}, busy)

    def _lay_down(self, route: set[Place]) -> None:
        """Drop the carried object, if possible where it blocks nothing."""
        world = world_of(self.level)
        empty = {(n % world.width, n // world.width) for n, cell in enumerate(world.cells) if cell is None} - route
        for places in ({place for place in empty if not _divides(world, place)}, empty):
            if (steps := self._search("drop", places)) is not None:
                return self._do(steps)
        raise NotImplementedError("there is no cell to drop the carried object")

    def _search(self, verb: str, places: set[Place]) -> list[str] | None:
        """Find the fewest actions over free cells and unlocked doors, or None."""
        carried, start = self._carried(), pose_of(self.level)
        known = {start}
        queue = deque([(start, world_of(self.level), list[str]())])
        while queue and places:
            pose, world, path = queue.popleft()
            self._poses += 1
            if self._poses > MAX_POSES:
                raise NotImplementedError(f"more than {MAX_POSES} poses")
            for action, move in look(world, pose, carried).moves.items():
                done = move.place in places and move.verb.startswith(verb) and verb != "go to"
                if done:
                    return [*path, action]
                if move.verb not in _WALKS:
                    continue
                there, changed = _walk(world, pose, move)
                if verb == "go to" and there.front() in places:
                    return [*path, action]
                if there not in known:
                    known.add(there)
                    queue.append((there, changed, [*path, action]))
        return None

    def _route(self, start: Place, places: set[Place], busy: frozenset[Place] = frozenset()) -> list[Place] | None:
        """Find the cheapest route to one of the places, through everything that can be cleared."""
        world, carried = world_of(self.level), self._carried()
        queue = [(0, start, list[Place]())]
        known = set[Place]()
        while queue:
            cost, place, path = heapq.heappop(queue)
            if place in places:
                return path
            if place in known:
                continue
            known.add(place)
            for dx, dy in AHEAD:
                there = (place[0] + dx, place[1] + dy)
                cell = world.at(*there)
                if cell == "wall" or (there in busy and there not in places):
                    continue
                if free(cell) or there in places:
                    step = 1
                elif cell and cell.endswith("door"):
                    step = 2 if opens(cell, carried) else _LOCKED
                else:
                    step = _BLOCKED
                heapq.heappush(queue, (cost + step, there, [*path, there]))
        return None


def _place(place: Any) -> Place:
    return int(place[0]), int(place[1])


def _among(thing: Any, things: list[Any]) -> bool:
    return any(thing is other for other in things)


def _divides(world: World, place: Place) -> bool:
    """Return whether an object in an empty cell would separate the free cells around it."""
    x, y = place
    ring = ((1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1))
    open_ = [(cell := world.at(x + dx, y + dy)) is None or cell.endswith("door") for dx, dy in ring]
    return sum(open_[n] != open_[n - 1] for n in range(len(ring))) > 2


def _walk(world: World, pose: Pose, move: Move) -> tuple[Pose, World]:
    """Return the pose and the world after a move."""
    x, y, heading = pose
    for action in move.primitives:
        if action in (LEFT, RIGHT):
            heading = (heading + (1 if action == RIGHT else -1)) % 4
            continue
        there = Pose(x, y, heading).front()
        cell = world.at(*there)
        if action == FORWARD and free(cell):
            x, y = there
        elif action == TOGGLE and cell:
            cells = list(world.cells)
            cells[there[1] * world.width + there[0]] = f"{cell.split()[0]} open door"
            world = World(world.width, cells)
    return Pose(x, y, heading), world
