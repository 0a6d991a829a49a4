"""MiniWoB++: small web pages with one thing to do each, in a real browser, read as text and acted on by element ids.

The pages come from the package `miniwob` (MIT). Its code, which needs Selenium and one browser per episode, is not
used. A task is a page and a number, which seeds the page's `Math.random`; the episode's seed has no effect. The page's
clock stands still between actions, so neither its timers nor the package's bonus for speed depend on the machine: there
is no time limit, and the reward is the raw one, clipped to 0..1 (it can be -1, or a fraction on pages that give partial
credit). Success is the package's binary reward: the full raw reward. The splits are chosen by this project.
"""

from __future__ import annotations

import importlib.util
import random
from functools import cache
from pathlib import Path

from env_adapters.browser import browser
from env_adapters.browser.actions import Action, instructions, random_action
from env_adapters.browser.reading import read_action, suggestion
from env_adapters.browser.spec import BrowserSpec
from env_adapters.browser.tab import Tab
from env_adapters.browser.web import Request, Response
from env_adapters.miniwob.oracle import solve
from env_adapters.miniwob.pages import PAGES
from env_adapters.protocol import EnvironmentFailure, EnvironmentMissing, Reset, Transition, UnknownTask
from env_adapters.splits import numbered
from upturn import packages

HOST = "miniwob.test"
SIZE = (500, 320)  # The package's own window.
TASKS_PER_PAGE = 10
TESTS_PER_PAGE = 2
WHOLE = 0.999
"""Raw rewards from this value count as complete; sums of fractions are not exactly 1."""
KINDS = ("click", "type", "select", "hover", "press", "scroll")
INSTRUCTIONS = instructions(KINDS, "Do what the task says on the web page.")
INVALID = "Not an action. Use one of: " + ", ".join(KINDS) + "."
FURNITURE = "#query, #reward-display, #sync-task-cover, #click-canvas"
"""Elements of a page that do not belong to its task."""
KINDS_OF_FILES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".png": "image/png",
    ".gif": "image/gif",
}
STATE = "{done: WOB_DONE_GLOBAL, raw: WOB_RAW_REWARD_GLOBAL, goal: core.getUtterance()}"


class MiniWob:
    """One instance: a page in its own context."""

    def __init__(self, shared: browser.Browser) -> None:
        self._tab = Tab(shared, size=SIZE, skip=FURNITURE, more=STATE)
        self._page, self._goal, self._over = "", "", True
        self._done: list[Action] = []

    def reset(self, task: str, seed: int) -> Reset:
        """Begin a task. The seed has no effect."""
        if task not in all_tasks():
            raise UnknownTask(f"no MiniWoB task {task!r}; they are named like 'click-button/7'")
        self._page, self._over, self._done = task.rpartition("/")[0], False, []
        begin = f"Math.seedrandom('miniwob/{task}'); core.EPISODE_MAX_TIME = 1e9; core.startEpisodeReal(); 0"
        view = self._tab.open(f"http://{HOST}/miniwob/{self._page}.html", begin)
        goal = view.more["goal"]
        self._goal = goal["utterance"] if isinstance(goal, dict) else goal
        messages = [
            {"role": "system", "content": INSTRUCTIONS},
            {"role": "user", "content": f"Task: {self._goal}\n\n{view.text}"},
        ]
        return Reset(messages, {"goal": self._goal, "page": self._page})

    def step(self, text: str) -> Transition:
        """Execute the action in an answer.

        Raises:
            ValueError: the episode is over or has not begun.
            EnvironmentFailure: the browser has died, or the page was left.
        """
        self._must_be_open()
        action = read_action(text, KINDS)
        if action is None:
            wrong = f"{INVALID}{suggestion(text, KINDS, self._tab.view)}\n{self._tab.view.text}"
            return Transition(wrong, 0.0, False, valid=False)
        if (problem := self._tab.act(action)) is not None:
            return Transition(f"{problem}\n{self._tab.view.text}", 0.0, False, valid=False)
        self._done.append(action)
        view = self._tab.view
        if not view.more["done"]:
            return Transition(view.text, 0.0, False)
        self._over = True
        raw = float(view.more["raw"])
        success = raw >= WHOLE
        return Transition(
            "The task is done." if success else "The task has failed.",
            min(1.0, max(0.0, raw)),
            True,
            success=success,
            info={"raw_reward": raw},
        )

    def oracle(self) -> str:
        """Return the next action of the page's solver.

        Raises:
            NotImplementedError: the page has no solver.
        """
        self._must_be_open()
        return str(solve(self._page, self._goal, self._tab.view, self._done))

    def random(self, rng: random.Random) -> str:
        """Return a random action on the page's elements; typed text comes from the task."""
        self._must_be_open()
        return random_action(self._tab.view, KINDS, self._goal, rng)

    def close(self) -> None:
        """Close the page."""
        self._over = True
        self._tab.close()

    def _must_be_open(self) -> None:
        if self._over:
            raise ValueError("this MiniWoB episode is over or has not begun: reset it first")


class Pages(BrowserSpec):
    """All pages that can be played as text."""

    name = "miniwob"
    description = "Do one small thing on a web page, such as filling in a form, by ids of its elements."
    title = "MiniWoB"
    kinds = KINDS

    def missing(self) -> str | None:
        """Return the commands that install what is missing, or None."""
        needs = [] if importlib.util.find_spec("miniwob") else [packages.command("miniwob")]
        return " and ".join([*needs, *filter(None, [browser.missing()])]) or None

    def make(self) -> MiniWob:
        """Make an instance. The browser starts with its first reset."""
        if (needs := self.missing()) is not None:
            raise EnvironmentMissing(needs)
        shared = browser.shared()
        shared.web.add(HOST, page_file)
        return MiniWob(shared)


@cache
def all_tasks() -> dict[str, str]:
    """Return the split of every task."""
    return numbered("miniwob", PAGES, TASKS_PER_PAGE, TESTS_PER_PAGE)


@cache
def _root() -> Path:
    spec = importlib.util.find_spec("miniwob")  # Importing it loads gymnasium and Selenium and takes a second.
    if spec is None or spec.origin is None:
        raise EnvironmentFailure("the package miniwob is no longer installed")
    return Path(spec.origin).parent / "html"


@cache
def _file(path: str) -> Response:
    found = (_root() / path.lstrip("/")).resolve()
    if not found.is_relative_to(_root().resolve()) or not found.is_file():
        return Response(b"There is no such page.", "text/plain", 404)
    return Response(
        found.read_bytes(),
        KINDS_OF_FILES.get(found.suffix, "application/octet-stream"),
        headers={"Cache-Control": "max-age=86400, immutable"},
    )


def page_file(request: Request) -> Response:
    """Return a file of the package."""
    return _file(request.path)


def make_spec() -> Pages:
    """Return the spec."""
    return Pages(all_tasks())
