"""TextWorld's games: the levels, and generating a game from its name.

Generating a game takes a few tenths of a second, so only the latest games are kept, in memory. The generator is the one
of the package `textworld` (MIT). Games are not compiled: that takes seconds, a compiler and an interpreter of another
language, and the package tracks a game's state without them. `text.py` renders games for players.
"""

from __future__ import annotations

import hashlib
import importlib
import threading
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from env_adapters.protocol import UnknownTask
from env_adapters.splits import numbered
from env_adapters.textworld.progress import Progress

GAMES = 50
"""Games per level, chosen by this project."""
TEST_GAMES = 10
KEPT = 32
"""Games kept in memory, chosen by this project: the episodes of a group share one."""


@dataclass(frozen=True, slots=True)
class Level:
    """A challenge of the package and its settings."""

    challenge: str
    settings: dict[str, Any]
    grammar: dict[str, Any] = field(default_factory=dict)


def _cooking(ingredients: int, rooms: int, *, skills: bool) -> Level:
    return Level(
        "tw-cooking",
        {
            "recipe": ingredients,
            "take": ingredients,
            "go": rooms,
            "open": skills,
            "cook": skills,
            "cut": skills,
            "drop": False,
            "split": None,
        },
    )


def _search(challenge: str, level: int) -> Level:
    """A game that names the object to find; the package's own text would also reveal the whole route."""
    return Level(challenge, {"level": level}, {"only_last_action": True})


LEVELS = {
    "simple-1": Level("tw-simple", {"rewards": "dense", "goal": "detailed"}),
    "simple-2": Level("tw-simple", {"rewards": "balanced", "goal": "brief"}),
    "simple-3": Level("tw-simple", {"rewards": "sparse", "goal": "none"}),
    "coin-1": _search("tw-coin_collector", 3),
    "coin-2": _search("tw-coin_collector", 105),
    "coin-3": _search("tw-coin_collector", 110),
    "coin-4": _search("tw-coin_collector", 215),
    "treasure-1": _search("tw-treasure_hunter", 5),
    "treasure-2": _search("tw-treasure_hunter", 13),
    "treasure-3": _search("tw-treasure_hunter", 18),
    "cooking-1": _cooking(1, 1, skills=False),
    "cooking-2": _cooking(1, 1, skills=True),
    "cooking-3": _cooking(2, 6, skills=True),
    "cooking-4": _cooking(3, 9, skills=True),
}
"""Four challenges of the package, each from short to long; the selection is this project's."""
_MAKING = threading.Lock()
"""The generator and the parser of its rules use global state."""


def tasks() -> dict[str, list[str]]:
    """Return names such as `cooking-2/17` (level, game) by split. `test` has 10 games per level, chosen by a hash."""
    splits = numbered("textworld", LEVELS, GAMES, TEST_GAMES)
    return {wanted: [name for name, split in splits.items() if split == wanted] for wanted in ("train", "test")}


TEST = frozenset(tasks()["test"])
NAMES = TEST.union(tasks()["train"])


def load(task: str) -> Any:
    """Return a task's `textworld.Game`, which all its players share; it must not be changed.

    Raises:
        UnknownTask: the task does not exist.
    """
    if task not in NAMES:
        raise UnknownTask(f"no TextWorld task {task!r}; they are named like 'cooking-2/17'")
    with _MAKING:
        return _make(task)


@lru_cache(KEPT)
def _make(task: str) -> Any:
    textworld: Any = importlib.import_module("textworld")
    level = LEVELS[task.partition("/")[0]]
    seed = int.from_bytes(hashlib.sha256(f"textworld/{task}".encode()).digest()[:4]) >> 1
    textworld.g_rng.set_seed(seed)
    textworld.GameMaker.set_walkthrough = _set_walkthrough
    options = textworld.GameOptions()
    options.seeds = seed
    options.grammar = textworld.generator.text_grammar.GrammarOptions(level.grammar)
    _, make, _ = importlib.import_module("textworld.challenges").CHALLENGES[level.challenge]
    # Some simple games differ only in their number; the package's test games ask for another food.
    return make({**level.settings, "recipe_seed": seed, "test": task in TEST}, options)


def _set_walkthrough(maker: Any, commands: list[str]) -> None:
    """Record the actions that lead to each event of a game. The package would compile and play the game for that."""
    game = maker.build()
    names = {name: info.name for name, info in game.infos.items()}
    progress, actions = Progress(game), []
    own = [event for quest in maker.quests for event in quest.win_events]
    events = [event for quest in game.quests for event in quest.win_events]
    reached: dict[int, tuple[list[Any], list[str]]] = {}
    for number, command in enumerate(commands, 1):
        action = next((action for action in progress.valid_actions if action.format_command(names) == command), None)
        if action is None:
            continue  # It opens something that is already open.
        actions.append(action)
        progress.update(action)
        for at, event in enumerate(events):
            if at not in reached and event.is_triggering(progress.state):
                reached[at] = list(actions), commands[:number]
    for at, (done, written) in reached.items():
        own[at].actions, own[at].commands = done, written
