"""One TextCraft episode: an inventory, a goal, the rules of AgentGym's server, and a solver."""

from __future__ import annotations

import random
from collections import Counter

from env_adapters.answer import read_action, said
from env_adapters.dress import Call
from env_adapters.protocol import Reset, Transition, UnknownTask
from env_adapters.textcraft.commands import Command, known, parse, suggestion
from env_adapters.textcraft.recipes import Book, Recipe

DISTRACTORS = 3
"""Commands in the prompt that the goal does not need; default chosen by this project, AgentGym has up to 10."""
INSTRUCTIONS = (
    "Craft the goal. Answer with one action only: get N item | craft N item using N item, N item | inventory\n"
    "Get what no command crafts, then craft with the counts of the commands. Example for a torch:\n"
    "get 1 coal\nget 1 stick\ncraft 1 torch using 1 coal, 1 stick"
)
INVALID = "Not an action. Use get, craft or inventory."


class Game:
    """One instance: an inventory, a goal and the rules."""

    def __init__(self, book: Book, tasks: dict[str, str], call: Call) -> None:
        self._book, self._tasks, self._call = book, tasks, call
        self._goal, self._over = "", True
        self._kind: dict[str, str] = {}
        self._inventory: Counter[str] = Counter()
        self._commands: list[str] = []
        """The crafting commands of the prompt."""

    def reset(self, task: str, seed: int) -> Reset:
        """Begin a task. The seed chooses the distractors, the kinds of planks and wool, and the order of the lines."""
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
        """Execute the action in an answer.

        Raises:
            ValueError: the episode is over or has not begun.
        """
        if self._over:
            raise ValueError("this TextCraft episode is over or has not begun: reset it before a step")
        command = read_action(text, parse, lambda part: known(part, self._book), self._call)
        if command is None:
            return Transition(INVALID + self._hint(said(text)), 0.0, False, valid=False)
        if command.verb == "inventory":
            listed = " ".join(f"[{item}] ({count})" for item, count in self._inventory.items())
            return Transition(f"Inventory: {listed or 'You are not carrying anything.'}", 0.0, False)
        if command.verb == "get":
            return Transition(self._get(command), 0.0, False)
        observation, done = self._craft(command)
        self._over = done
        return Transition(observation, float(done), done, success=True if done else None)

    def _hint(self, text: str) -> str:
        return suggestion(text, self._commands, self._book)

    def _get(self, command: Command) -> str:
        item, count = command.item, command.count
        if item not in self._book.items or item in self._book.recipes or item in self._book.tags or not count:
            return f"Could not find {item}{self._hint(command.text)}"
        self._inventory[item] += count
        return f"Got {count} {item}"

    def _craft(self, command: Command) -> tuple[str, bool]:
        """Return the observation, and whether this crafted the goal."""
        item, amounts = command.item, Counter[str]()
        for part in command.parts:
            if part.count is None:
                return f"Wrong item format: {part.item}{self._hint(command.text)}", False
            amounts[part.item] += part.count
        if any(self._inventory[name] < count for name, count in amounts.items()):
            return f"Could not find enough items to craft {item}{self._hint(command.text)}", False
        for recipe in self._book.recipes.get(item, []):
            if self._fits(recipe, dict(amounts)):
                self._inventory.subtract(amounts)
                self._inventory[item] += recipe.count
                self._inventory = +self._inventory
                return f"Crafted {recipe.count} {item}", item == self._goal
        return f"Could not find a valid recipe for {item}{self._hint(command.text)}", False

    def _fits(self, recipe: Recipe, amounts: dict[str, int]) -> bool:
        for name, count in recipe.ingredients:
            fit = next((item for item, n in amounts.items() if n == count and self._book.matches(item, name)), None)
            if fit is None:
                return False
            del amounts[fit]
        return not amounts

    def oracle(self) -> str:
        """Return the next action: one `get` per missing base item, then the crafts, innermost first."""
        if self._over:
            raise ValueError("this TextCraft episode is over or has not begun: reset it before asking for an action")
        gets, crafts = Counter[str](), list[str]()
        self._plan(self._goal, Counter(self._inventory), gets, crafts)
        return next((f"get {count} {item}" for item, count in gets.items() if count), crafts[0])

    def random(self, rng: random.Random) -> str:
        """Return a command of the prompt, or a `get` of one of its ingredients."""
        command = rng.choice(self._commands)
        return rng.choice([command, *(f"get {part}" for part in command.partition(" using ")[2].split(", "))])

    def _plan(self, item: str, stock: Counter[str], gets: Counter[str], crafts: list[str]) -> None:
        """Append the actions that craft one batch of an item, consuming the stock."""
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
