"""One episode's page: acting in it with a real mouse and keyboard, and reading it as text.

Actions use Chromium's input events (mouse moves, presses, keys), since pages listen to all of them. Scripts set only
`<select>`, date and color fields, whose pickers are not part of the page, and the scroll position, whose animation
would depend on time. Reading is one call of `page.js`, which also advances the page's own clock by `STEP_MS`; between
actions the clock stands still. `actions.py` parses actions.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any, TypeVar

from env_adapters.browser.actions import TYPED, Action
from env_adapters.browser.browser import CALL_S, START_S, Browser, BrowserDied, Window
from env_adapters.browser.view import Target, View

T = TypeVar("T")
STEP_MS = 2000
"""Advance of a page's clock after an action, enough for the animations of the pages; chosen by this project."""
VIEW_CHARS = 6000
"""Maximum length of a page's text, cut at a line; `scroll` shows the next part. Chosen by this project."""
LOAD_S = 30.0
OPEN_S = START_S + CALL_S
LEFT = ("Execution context was destroyed", "Cannot find context", "navigated or closed")
"""Chromium's errors for a page that was left during a call. Any other error means that the page is gone for good."""
PROBLEMS = {
    "gone": "There is no [{id}] on this page.",
    "disabled": "[{id}] is disabled.",
    "hidden": "[{id}] cannot be seen now.",
    "covered": "[{id}] is covered by '{by}'.",
    "no list": "[{id}] is not a list to select from.",
    "no option": "[{id}] has no such option.",
    "no text": "[{id}] takes no text.",
    "native": "[{id}] is a list: use select [{id}] [option].",
    "no value": "[{id}] does not take this value.",
    "no page": "There is no page to go back to.",
    "end": "There is nothing more to scroll.",
}


class Tab:
    """A page in its own context. Its methods block and are called by one thread at a time."""

    def __init__(self, browser: Browser, *, size: tuple[int, int], skip: str = "", more: str = "null") -> None:
        self._browser = browser
        self._size = size
        self._observe = f"webView.read({json.dumps(skip)}, {STEP_MS}).then((view) => view && {{view, more: {more}}})"
        self._held: Window | None = None
        self._sound = True
        """Whether every call has finished; otherwise the window must not be reused."""
        self._first_line = 0
        self.view = View("", [], [], "")

    def open(self, url: str, begin: str = "") -> View:
        """Load a page in its own window; `begin` is a script that starts it."""
        return self._call(self._open(url, begin), OPEN_S)

    def act(self, action: Action) -> str | None:
        """Execute an action and read the page again; return the reason if it was impossible, or None."""
        return self._call(self._act(action))

    def close(self) -> None:
        """Return the window to the browser."""
        if self._held is not None:
            self._browser.call(self._close())

    def _call(self, work: Coroutine[Any, Any, T], limit_s: float = CALL_S) -> T:
        try:
            return self._browser.call(work, limit_s)
        except BaseException:
            self._sound = False
            raise

    @property
    def _window(self) -> Window:
        if self._held is None:
            raise BrowserDied("there is no page")
        return self._held

    async def _open(self, url: str, begin: str) -> View:
        self._first_line = 0
        if not self._sound:
            await self._close()
        async with self._browser.loading:
            if self._held is None:
                self._held = await self._browser.window(self._size)
            answer = await self._held.page.goto(url, wait_until="load", timeout=LOAD_S * 1000)
            if answer is None or not answer.ok:
                raise BrowserDied(f"the page did not load: {answer and answer.status}")
            await self._held.session.send("Page.resetNavigationHistory")
            if begin:
                await self._evaluate(begin)
            return await self._read()

    async def _close(self) -> None:
        window, self._held = self._held, None
        if window is not None:
            await self._browser.put_back(window, sound=self._sound)
        self._sound = True

    async def _act(self, action: Action) -> str | None:
        self._window.loaded.clear()
        problem = await self._do(action)
        if problem is None:
            if action.kind != "scroll":
                self._first_line = 0
            await self._read()
        if problem is None:
            return None
        return PROBLEMS[problem["problem"]].format(**{"by": "", **problem, "id": action.id})

    async def _do(self, action: Action) -> dict[str, Any] | None:
        """Execute an action; return the problem that prevented it, or None."""
        mouse, keyboard = self._window.page.mouse, self._window.page.keyboard
        if action.kind == "press" and not action.id:
            await keyboard.press(action.text)
            return None
        if action.kind == "scroll":
            return await self._scroll(down=action.text == "down")
        if action.kind == "go_back":
            gone = await self._window.page.go_back(wait_until="domcontentloaded", timeout=LOAD_S * 1000)
            return {"problem": "no page"} if gone is None else None
        if action.kind == "select":
            done = await self._evaluate(f"webView.choose({action.id}, {json.dumps(action.text)})")
            return done if done else None
        found = await self._evaluate(f"webView.target({action.id})")
        if "problem" in found:
            return dict(found)
        if action.kind == "press":
            await self._evaluate(f"webView.focus({action.id})")
            await keyboard.press(action.text)
            return None
        if action.kind == "hover":
            await mouse.move(found["x"], found["y"])
            return None
        if action.kind == "click":
            if found["native"]:
                return {"problem": "native"}
            await mouse.click(found["x"], found["y"])
            return None
        return await self._type(action, found)

    async def _type(self, action: Action, found: dict[str, Any]) -> dict[str, Any] | None:
        """Replace the text of a field."""
        keyboard = self._window.page.keyboard
        if found["special"]:
            taken = await self._evaluate(f"webView.setValue({action.id}, {json.dumps(action.text)})")
            return None if taken else {"problem": "no value"}
        if found["kind"] not in TYPED or found["native"]:
            return {"problem": "no text"}
        await self._window.page.mouse.click(found["x"], found["y"])
        if not await self._evaluate(f"webView.marked({action.id})"):
            return {"problem": "no text"}
        await (keyboard.type(action.text) if action.text else keyboard.press("Delete"))
        if action.enter:
            await keyboard.press("Enter")
        return None

    async def _scroll(self, *, down: bool) -> dict[str, Any] | None:
        """Scroll the page, and the range of shown lines if the page is too long."""
        moved = await self._evaluate(f"webView.scroll({json.dumps(down)})")
        shown = self._first_line
        if down:
            last = _last_line(self.view.lines, shown)
            self._first_line = last if last < len(self.view.lines) else shown
        else:
            self._first_line = _first_before(self.view.lines, shown)
        return None if moved or self._first_line != shown else {"problem": "end"}

    async def _read(self) -> View:
        """Advance the page's clock and read the page as text, once no navigation is pending."""
        while (found := await self._evaluate(self._observe)) is None:
            await asyncio.wait_for(self._window.loaded.wait(), LOAD_S)
            self._window.loaded.clear()
        await self._window.tidy()
        view = found["view"]
        self.view = View(
            _part(view["lines"], self._first_line),
            [Target(**target) for target in view["targets"]],
            view["lines"],
            view["title"],
            found["more"],
        )
        return self.view

    async def _evaluate(self, expression: str) -> Any:
        """Run a script in the page and return its value."""
        from playwright.async_api import Error

        for _ in range(3):
            try:
                answer = await self._window.session.send(
                    "Runtime.evaluate", {"expression": expression, "returnByValue": True, "awaitPromise": True}
                )
            except Error as error:
                if not any(message in str(error) for message in LEFT):
                    raise
                await asyncio.wait_for(self._window.loaded.wait(), LOAD_S)
                continue
            if "exceptionDetails" in answer:
                details = answer["exceptionDetails"]
                raise BrowserDied(f"a script failed: {details.get('exception', details).get('description', details)}")
            return answer["result"].get("value")
        raise BrowserDied("the page keeps navigating")


def _last_line(lines: list[str], first: int) -> int:
    """Return the end of the part of a page that begins at line `first`."""
    room, last = VIEW_CHARS, first
    while last < len(lines) and (room := room - len(lines[last]) - 1) >= 0:
        last += 1
    return max(last, min(first + 1, len(lines)))


def _first_before(lines: list[str], first: int) -> int:
    """Return the start of the part of a page that ends before line `first`."""
    room = VIEW_CHARS
    while first > 0 and (room := room - len(lines[first - 1]) - 1) >= 0:
        first -= 1
    return first


def _part(lines: list[str], first: int) -> str:
    """Return the part of a page that begins at line `first`, with a note if there is more."""
    first = min(first, max(0, len(lines) - 1))
    last = _last_line(lines, first)
    shown = [line if len(line) <= VIEW_CHARS else line[:VIEW_CHARS] + "…" for line in lines[first:last]]
    if first > 0 or last < len(lines):
        shown.append(f"(lines {first + 1} to {last} of {len(lines)}; scroll [down] or [up] shows the others)")
    return "\n".join(shown)
