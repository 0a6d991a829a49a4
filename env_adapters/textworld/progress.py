"""How far a TextWorld game is: what is possible, what is won, and, only for who asks, a way to the end.

Responsible for a game's rules as the compiled game has them: a quest is won, or failed, at the first state in which one
of its events happens. The package's own tracker keeps a plan for every quest as well; off that plan it can become very
slow and, where its plan runs in a circle, never end. So the solver is a tracker that only `way` knows of, and a plan
longer than any game's is given up.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from itertools import islice
from typing import Any

LONGEST = 100
"""Commands of a plan; the longest game takes half as many. Ours."""
_BOUNDING = threading.Lock()
"""Two solvers that begin at once would else take the bounded plan for the package's own."""


class Progress:
    """One play of a `textworld.Game`."""

    def __init__(self, game: Any) -> None:
        self.game = game
        self.state = game.world.state.copy()
        self.valid_actions: list[Any] = []
        self._quests: list[bool | None] = [None] * len(game.quests)
        """Won, failed, or open, as they came."""
        self._done: list[Any] = []
        self._solver: _Solver | None = None
        self._look()

    def update(self, action: Any) -> None:
        """Do what is possible."""
        self.state.apply(action)
        self._done.append(action)
        self._look()

    def _look(self) -> None:
        kb = self.game.kb
        self.valid_actions = list(self.state.all_applicable_actions(kb.rules.values(), kb.types.constants_mapping))
        for at, quest in enumerate(self.game.quests):
            if self._quests[at] is None and (quest.is_winning(self.state) or quest.is_failing(self.state)):
                self._quests[at] = quest.is_winning(self.state)

    @property
    def score(self) -> int:
        """Points of the quests that are won."""
        return sum(quest.reward for quest, won in zip(self.game.quests, self._quests, strict=True) if won)

    @property
    def completed(self) -> bool:
        """Whether every quest is won that has to be."""
        return all(
            won
            for quest, won in zip(self.game.quests, self._quests, strict=True)
            if quest.win_events and not quest.optional
        )

    @property
    def failed(self) -> bool:
        """Whether a quest is failed that has to be won."""
        return any(
            won is False for quest, won in zip(self.game.quests, self._quests, strict=True) if not quest.optional
        )

    def way(self) -> tuple[Any, ...]:
        """Return actions that win from here.

        Raises:
            NotImplementedError: the solver knows none.
        """
        if self._solver is None:
            self._solver = _Solver(self.game)
        return self._solver.way(self._done)


class _Solver:
    """The package's tracker, taken to where the player is."""

    def __init__(self, game: Any) -> None:
        module = importlib.import_module("textworld.generator.game")
        with _BOUNDING:
            if not hasattr(module.ActionDependencyTree, "unbounded"):
                module.ActionDependencyTree.unbounded = module.ActionDependencyTree.flatten
                module.ActionDependencyTree.flatten = _flatten
        self._tracker = module.GameProgression(game)
        self._told = 0
        self._lost = False

    def way(self, done: list[Any]) -> tuple[Any, ...]:
        try:
            while not self._lost and self._told < len(done):
                self._told += 1
                self._tracker.update(done[self._told - 1])
            policy = None if self._lost else self._tracker.winning_policy
        except _Circle:
            self._lost, policy = True, None
        if not policy:
            raise NotImplementedError("the solver knows no way to win from here")
        return tuple(policy)


class _Circle(Exception):
    """A plan that does not end."""


def _flatten(tree: Any) -> Iterator[Any]:
    yield from islice(plan := tree.unbounded(), LONGEST)
    if next(plan, None) is not None:
        raise _Circle
