"""A small shop with a forum, in a real browser: tasks of 8 to 15 actions over many pages, checked in its database.

The site (`site.py`, `pages.py`) belongs to this project: made-up products, reviews, orders, threads and people, new for
each task. Each episode has its own site, in-memory database and host name, served by this process. A task is a template
and a number, which seeds everything; the episode's seed has no effect. `stop` ends the episode. It is a success if the
database is exactly in the wanted state, with nothing else ordered, posted or changed (and if the answer is right, when
the task asks for one). The splits are chosen by this project.
"""

from __future__ import annotations

import random
import secrets
from collections import Counter
from functools import cache

from env_adapters.browser import browser
from env_adapters.browser.actions import instructions, random_action
from env_adapters.browser.reading import read_action, suggestion
from env_adapters.browser.spec import BrowserSpec
from env_adapters.browser.tab import Tab
from env_adapters.protocol import EnvironmentFailure, EnvironmentMissing, Reset, Transition, UnknownTask
from env_adapters.shop import database
from env_adapters.shop.oracle import Solver
from env_adapters.shop.site import Site
from env_adapters.shop.tasks import TEMPLATES, Task, is_done
from env_adapters.splits import numbered

SIZE = (1000, 800)
TASKS_PER_TEMPLATE = 50
TESTS_PER_TEMPLATE = 10
KINDS = ("click", "type", "select", "scroll", "go_back", "stop")
INSTRUCTIONS = instructions(
    KINDS,
    "You are Mira Lindqvist (mira), logged in to a shop with a forum. Do what the task says, nothing more, then stop.",
)
INVALID = "Not an action. Use one of: " + ", ".join(KINDS) + "."


class Shop:
    """One instance: a browser page and the site that it shows."""

    def __init__(self, shared: browser.Browser) -> None:
        self._browser = shared
        self._tab = Tab(shared, size=SIZE, more="document.title")
        self._host = ""
        self._site: Site | None = None
        self._task = Task("", [])
        self._before: Counter[database.Change] = Counter()
        self._over = True

    def reset(self, task: str, seed: int) -> Reset:
        """Begin a task. The seed has no effect."""
        if task not in all_tasks():
            raise UnknownTask(f"no shop task {task!r}; they are named like 'order-two/7'")
        self._close_site()
        rng = random.Random(f"shop/{task}")
        db = database.made(rng)
        self._task, self._before = TEMPLATES[task.partition("/")[0]](db, rng), database.state(db)
        self._site, self._over = Site(db), False
        self._host = f"{secrets.token_hex(8)}.shop.test"  # Unguessable, and shown on no page.
        self._browser.web.add(self._host, self._site)
        self._tab.open(f"http://{self._host}/")
        messages = [
            {"role": "system", "content": INSTRUCTIONS},
            {"role": "user", "content": f"Task: {self._task.goal}\n\n{self._tab.view.text}"},
        ]
        return Reset(messages, {"goal": self._task.goal, "template": task.partition("/")[0]})

    def step(self, text: str) -> Transition:
        """Execute the action in an answer; `stop` ends the episode.

        Raises:
            ValueError: the episode is over or has not begun.
            EnvironmentFailure: the browser has died, or a page failed.
        """
        site = self._open_site()
        action = read_action(text, KINDS)
        if action is None:
            wrong = f"{INVALID}{suggestion(text, KINDS, self._tab.view)}\n{self._tab.view.text}"
            return Transition(wrong, 0.0, False, valid=False)
        if action.kind == "stop":
            self._over = True
            success = is_done(site.db, self._before, self._task, action.text)
            verdict = "The task is done." if success else "The task is not done as it should be."
            return Transition(verdict, float(success), True, success=success)
        problem = self._tab.act(action)
        if site.failed is not None:
            raise EnvironmentFailure(f"a page failed: {type(site.failed).__name__}: {site.failed}") from site.failed
        if problem is not None:
            return Transition(f"{problem}\n{self._tab.view.text}", 0.0, False, valid=False)
        return Transition(self._tab.view.text, 0.0, False)

    def oracle(self) -> str:
        """Return the solver's next action."""
        site = self._open_site()
        return str(Solver(self._task, site.db, self._tab.view, site.visited).next())

    def random(self, rng: random.Random) -> str:
        """Return a random action on the page's elements; typed text comes from the task."""
        self._open_site()
        return random_action(self._tab.view, KINDS, self._task.goal, rng)

    def close(self) -> None:
        """Close the page and the site."""
        self._over = True
        self._tab.close()
        self._close_site()

    def _open_site(self) -> Site:
        if self._over or self._site is None:
            raise ValueError("this shop episode is over or has not begun: reset it first")
        return self._site

    def _close_site(self) -> None:
        if self._site is not None:
            self._browser.web.remove(self._host)
            self._site.db.close()
            self._site = None


class Shops(BrowserSpec):
    """All templates and numbers."""

    name = "shop"
    description = "Order, review, post and report in a web shop with a forum, by ids of a page's elements."
    title = "the shop"
    kinds = KINDS

    def missing(self) -> str | None:
        """Return the commands that install what is missing, or None."""
        return browser.missing()

    def make(self) -> Shop:
        """Make an instance. The browser starts with its first reset."""
        if (needs := self.missing()) is not None:
            raise EnvironmentMissing(needs)
        return Shop(browser.shared())


@cache
def all_tasks() -> dict[str, str]:
    """Return the split of every task."""
    return numbered("shop", sorted(TEMPLATES), TASKS_PER_TEMPLATE, TESTS_PER_TEMPLATE)


def make_spec() -> Shops:
    """Return the spec."""
    return Shops(all_tasks())
