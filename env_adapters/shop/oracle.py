"""The shop's solver: derives the next action toward the wanted state from the task's facts, the database and the page.

It continues from any state as long as nothing wrong was ordered or posted: every call determines what is still missing.
It navigates as a person would who has to look things up: by categories, searches, lists and their pages.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any

from env_adapters.browser.actions import Action
from env_adapters.browser.view import Target, View
from env_adapters.shop import words
from env_adapters.shop.database import state
from env_adapters.shop.tasks import Task

SHOP, CART, ORDERS, ACCOUNT, FORUM = "Shop", "Cart (", "My orders", "My account", "Forum"


@dataclass(frozen=True, slots=True)
class Solver:
    """A snapshot of the episode."""

    task: Task
    db: sqlite3.Connection
    view: View
    visited: list[str]

    @property
    def url(self) -> str:
        """The browser's current path and query."""
        return self.visited[-1]

    def next(self) -> Action:
        """Return the next action."""
        facts, done = self.task.facts, set(state(self.db))
        left = [change for change in self.task.added if change not in done]
        kinds = {change[0] for change in left}
        if "cancel" in facts and any(change[1] == "cancelled" for change in left):
            return self._press("Cancel this order") if self._is(f"/orders/{facts['cancel']}") else self._order_link()
        if "order" in kinds:
            return self._buy()
        if "review" in kinds:
            return self._review()
        if kinds & {"account", "address"}:
            return self._account("account" in kinds)
        if "thread" in kinds:
            return self._start()
        if kinds & {"vote", "post", "report"}:
            return self._thread(kinds)
        return Action("stop", text=facts.get("answer", ""))

    # Finding things on the page.

    def _is(self, path: str) -> bool:
        return self.url.partition("?")[0] == path

    def _find(self, name: str) -> Target | None:
        return next((target for target in self.view.targets if target.name == name), None)

    def _press(self, name: str) -> Action:
        """Click the element with this name; a name that ends in a bracket is a prefix."""
        found = next(
            target
            for target in self.view.targets
            if target.name == name or (name.endswith("(") and target.name.startswith(name))
        )
        return Action("click", found.id)

    def _fill(self, values: dict[str, Any], button: str) -> Action:
        """Fill in the fields that differ, then press the button."""
        for name, value in values.items():
            found = self._find(name)
            if found is None:
                continue
            if isinstance(value, bool):
                if ("checked" in found.state) != value:
                    return Action("click", found.id)
            elif found.options:
                if not found.state.startswith(f"value: '{value}'"):
                    return Action("select", found.id, value)
            elif found.state.removesuffix(" focused") != f"value: '{value}'":
                return Action("type", found.id, value)
        return self._press(button)

    def _seek(self, name: str) -> Action:
        """Search for a product and click it."""
        if self.url.startswith("/search") and self._find(name):
            return self._press(name)
        search = self._find("Search products")
        assert search is not None
        return Action("type", search.id, name, enter=True)

    # Parts of tasks.

    def _name(self, product: int) -> str:
        return str(self.db.execute("SELECT name FROM product WHERE id = ?", (product,)).fetchone()[0])

    def _order_link(self) -> Action:
        number = self.task.facts.get("cancel") or self.task.facts["order"]
        return self._press(f"Order {number}") if self._is("/orders") else self._press(ORDERS)

    def _buy(self) -> Action:
        facts = self.task.facts
        cart = [tuple(row) for row in self.db.execute("SELECT product, quantity FROM cart ORDER BY product")]
        for place, line in enumerate(cart):
            if line not in facts["lines"]:
                return self._nth("Remove", place) if self._is("/cart") else self._press(CART)
        for line in facts["lines"]:
            if line not in cart:
                return self._add(*line)
        if self._is("/checkout"):
            to = {"Send to": facts["label"]} if "label" in facts else facts["to"]
            return self._fill({**to, "Shipping": words.SHIPPING[facts["shipping"]]}, "Place order")
        return self._press("Go to checkout" if self._is("/cart") else CART)

    def _add(self, product: int, quantity: int) -> Action:
        facts, name = self.task.facts, self._name(product)
        if self._is(f"/p/{product}"):
            return self._fill({"Quantity": str(quantity)}, "Add to cart")
        if "category" in facts:
            if self.url.startswith("/c/"):
                if "sort=price" not in self.url:
                    return self._press("Sort by price")
                return self._press(name if self._find(name) else "Next page")
            return self._press(facts["category"] if self._is("/") else SHOP)
        if "order" in facts:
            return self._press(name) if self._is(f"/orders/{facts['order']}") else self._order_link()
        return self._seek(name)

    def _review(self) -> Action:
        facts, product = self.task.facts, self.task.facts["product"]
        if self._is(f"/review/{product}"):
            return self._fill({"Stars": facts["stars"], "Title": facts["title"], "Text": facts["text"]}, "Save review")
        if self._is(f"/p/{product}"):
            return self._press("Edit your review")
        return self._press(self._name(product)) if self._is(f"/orders/{facts['order']}") else self._order_link()

    def _account(self, settings: bool) -> Action:
        facts = self.task.facts
        if not settings and self._is("/address"):
            return self._fill(facts["address"], "Add address")
        if not self._is("/account"):
            return self._press(ACCOUNT)
        return self._fill(facts["settings"], "Save settings") if settings else self._press("Add an address")

    def _start(self) -> Action:
        facts, product = self.task.facts, self.task.facts["product"]
        if f"/p/{product}" not in self.visited:
            return self._seek(self._name(product))
        if self._is(f"/forum/b/{facts['board']}/new"):
            return self._fill({"Title": facts["title"], "Text": facts["text"]}, "Start thread")
        return self._press("Start a thread") if self._is(f"/forum/b/{facts['board']}") else self._board()

    def _board(self) -> Action:
        return self._press(words.BOARDS[self.task.facts["board"]] if self._is("/forum") else FORUM)

    def _thread(self, kinds: set[str]) -> Action:
        facts = self.task.facts
        post, way = facts["vote"]
        if self.url.startswith("/forum/report/"):
            return self._fill({"Reason": facts["reason"], "Note": facts["note"]}, "Send report")
        if not self._is(f"/forum/t/{facts['thread']}"):
            return self._find_thread()
        if "vote" in kinds:
            return self._nth("Vote up" if way > 0 else "Vote down", post)
        if "report" in kinds:
            return self._nth("Report", post)
        return self._fill({"Your reply": facts["text"]}, "Post reply")

    def _nth(self, name: str, number: int) -> Action:
        return Action("click", [target for target in self.view.targets if target.name == name][number].id)

    def _find_thread(self) -> Action:
        facts = self.task.facts
        title = self.db.execute("SELECT title FROM thread WHERE id = ?", (facts["thread"],)).fetchone()[0]
        if "author" in facts:
            if self._is(f"/forum/u/{facts['author']}"):
                return self._press(title)
            return (
                self._press(facts["author"])
                if self._is(f"/p/{facts['product']}")
                else self._seek(self._name(facts["product"]))
            )
        if not self._is(f"/forum/b/{facts['board']}"):
            return self._board()
        seen_all = "look" not in facts or f"/forum/b/{facts['board']}?page=3" in self.visited
        if seen_all and self._find(title):
            return self._press(title)
        return self._press("Previous page" if "look" in facts and seen_all else "Next page")
