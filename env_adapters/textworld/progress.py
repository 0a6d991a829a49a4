"""The progress of a TextWorld game: possible actions, finished quests, and, on request, a plan to win.

Implements the rules of the compiled game: a quest is won, or failed, at the first state in which one of its events
occurs. The package's own tracker also maintains a plan for every quest; off that plan it can become very slow and, if
the plan is circular, never end. Therefore the solver is a separate tracker that only `plan` uses, and a plan that is
longer than any game's is abandoned.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from itertools import islice
from typing import Any

LONGEST = 100
"""Maximum number of commands of a plan, chosen by this project: the longest game takes half as many."""
_BOUNDING = threading.Lock()
"""Two solvers that start at once would otherwise mistake the bounded plan for the package's own."""


class Progress:
    """One play of a `textworld.Game`."""

    def __init__(self, game: Any) -> None:
        self.game = game
        self.state = game.world.state.copy()
        self.valid_actions: list[Any] = []
        self._quests: list[bool | None] = [None] * len(game.quests)
        """Per quest: won (True), failed (False) or open (None)."""
        self._done: list[Any] = []
        self._solver: _Solver | None = None
        self._refresh()

    def update(self, action: Any) -> None:
        """Execute a possible action."""
        self.state.apply(action)
        self._done.append(action)
        self._refresh()

    def _refresh(self) -> None:
        kb = self.game.kb
        self.valid_actions = list(self.state.all_applicable_actions(kb.rules.values(), kb.types.constants_mapping))
        for at, quest in enumerate(self.game.quests):
            if self._quests[at] is None and (quest.is_winning(self.state) or quest.is_failing(self.state)):
                self._quests[at] = quest.is_winning(self.state)

    @property
    def score(self) -> int:
        """Points of the won quests."""
        return sum(quest.reward for quest, won in zip(self.game.quests, self._quests, strict=True) if won)

    @property
    def completed(self) -> bool:
        """Whether every required quest is won."""
        return all(
            won
            for quest, won in zip(self.game.quests, self._quests, strict=True)
            if quest.win_events and not quest.optional
        )

    @property
    def failed(self) -> bool:
        """Whether a required quest is failed."""
        return any(
            won is False for quest, won in zip(self.game.quests, self._quests, strict=True) if not quest.optional
        )

    def plan(self) -> tuple[Any, ...]:
        """Return actions that win from the current state.

        Raises:
            NotImplementedError: the solver has no plan.
        """
        if self._solver is None:
            self._solver = _Solver(self.game)
        return self._solver.plan(self._done)


class _Solver:
    """The package's tracker, kept in the player's state."""

    def __init__(self, game: Any) -> None:
        module = importlib.import_module("textworld.generator.game")
        with _BOUNDING:
            if not hasattr(module.ActionDependencyTree, "unbounded"):
                module.ActionDependencyTree.unbounded = module.ActionDependencyTree.flatten
                module.ActionDependencyTree.flatten = _flatten
        self._tracker = module.GameProgression(game)
        self._applied = 0
        self._lost = False

    def plan(self, done: list[Any]) -> tuple[Any, ...]:
        try:
            while not self._lost and self._applied < len(done):
                self._applied += 1
                self._tracker.update(done[self._applied - 1])
            policy = None if self._lost else self._tracker.winning_policy
        except _Circle:
            self._lost, policy = True, None
        if not policy:
            raise NotImplementedError("the solver has no winning plan from here")
        return tuple(policy)


class _Circle(Exception):
    """A plan that does not end."""


def _flatten(tree: Any) -> Iterator[Any]:
    yield from islice(plan := tree.unbounded(), LONGEST)
    if next(plan, None) is not None:
        raise _Circle
