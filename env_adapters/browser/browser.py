"""One Chromium per process, shared by all web environments, in a thread with its own event loop.

Starts the browser on demand and replaces one that died or hangs (only its episodes fail). No browser outlives this
process, even if the process is killed: Chromium is driven over a pipe and ends with it. All its requests go to
`web.py`, so pages reach only the environments' own hosts. `tab.py` acts inside a page. Playwright (Apache-2.0) drives
the program in `CHROMIUM`, Debian's `chromium-headless-shell`, or `chromium`, which takes twice as long to load a page
(measured).
"""

from __future__ import annotations

import asyncio
import atexit
import importlib.util
import logging
import os
import shutil
import signal
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from env_adapters.browser.web import Web
from env_adapters.child_variables import child_variables
from env_adapters.protocol import EnvironmentFailure, EnvironmentMissing
from upturn import packages

if TYPE_CHECKING:
    from playwright.async_api import Browser as PlaywrightBrowser
    from playwright.async_api import BrowserContext, CDPSession, Page, Playwright

T = TypeVar("T")
log = logging.getLogger("env_adapters.browser.browser")
OFF = (
    "SpareRendererForSitePerProcess",
    "ProactivelySwapBrowsingInstance",
    "BackForwardCache",
    "HttpsUpgrades",
    "HttpsFirstBalancedModeAutoEnable",
    "MediaRouter",
    "PaintHolding",
    "OptimizationHints",
    "PreconnectToSearch",
    "NetworkTimeServiceQuerying",
    "AimEnabled",
    "LensOverlay",
    "DestroyProfileOnBrowserClose",
)
"""Disabled features. The first three start a process per loaded page, a fifth of its cost (measured). The others access
the network, or are disabled in Playwright's own list, which this one replaces."""
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-features=" + ",".join(OFF),
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
]
"""In addition to Playwright's own flags, which disable background networking, sync and updates. No sandbox: Chromium
does not support one when it runs as root, and all pages are the environments' own."""
START_S = 30.0
CALL_S = 45.0
"""Time limit of a call; default chosen by this project. A click takes about 10 ms, but the machine may be busy."""
PULSE_S = 5.0
"""How long the browser may take to respond to a health check after a call timed out."""
MOST_SPARE = 8
"""Windows kept for the next episodes: making one takes four times as long as loading a page (measured)."""
LOADING = 4
"""Pages opened concurrently: more only slow each other down (measured)."""
PAGES = 40
"""Pages that a window loads between garbage collections; without them Chromium leaks 1 MB per page (measured)."""
REST_S = 60.0
"""An unused browser is closed after this time; default chosen by this project."""
CHROMIUM = "apt-get install chromium-headless-shell (or chromium)"
PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser")


class BrowserDied(EnvironmentFailure):
    """The browser, or the page in it, has died or hangs."""


def program() -> str | None:
    """Return the path of Chromium, or None."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, PROGRAMS)), None)


def missing() -> str | None:
    """Return what must be installed, or None."""
    needs = [] if importlib.util.find_spec("playwright") else [packages.command("playwright")]
    return " and ".join(needs if program() else [*needs, CHROMIUM]) or None


@cache
def page_script() -> str:
    """Return the script that runs in every page before the page's own scripts."""
    return Path(__file__).with_name("page.js").read_text(encoding="utf-8")


@dataclass(eq=False, slots=True)
class Window:
    """A browser context with one page, used by one episode at a time."""

    context: BrowserContext
    page: Page
    session: CDPSession
    size: tuple[int, int]
    loaded: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the page has a new document or is gone; in both cases a waiter queries the page next."""
    crashed: bool = False
    pages: int = 0
    """Pages loaded since the last garbage collection."""

    def has_loaded(self) -> None:
        """Record a new document."""
        self.pages += 1
        self.loaded.set()

    async def tidy(self) -> None:
        """Collect the memory of left pages, once every `PAGES` pages."""
        if self.pages >= PAGES:
            self.pages = 0
            await self.session.send("HeapProfiler.collectGarbage")


class Browser:
    """The browser of this process. `call` and `close` are for any thread, all other methods for the browser's loop."""

    def __init__(self) -> None:
        self.web = Web()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="browser", daemon=True)
        self._thread.start()
        self.loading = asyncio.Semaphore(LOADING)
        """Held while a page is opened."""
        self._starting = asyncio.Lock()
        self._playwright: Playwright | None = None
        self._browser: PlaywrightBrowser | None = None
        self._pid = 0
        self._port = 0
        self._used: set[Window] = set()
        self._spare: list[Window] = []
        self._rest: asyncio.TimerHandle | None = None

    def call(self, work: Coroutine[Any, Any, T], limit_s: float = CALL_S) -> T:
        """Run a coroutine in the browser's loop and wait for its result.

        Raises:
            BrowserDied: it did not finish in time, or its page or the browser is gone.
        """
        from playwright.async_api import Error

        waiting: Future[T] = asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, limit_s), self._loop)
        try:
            return waiting.result()
        except TimeoutError:
            asyncio.run_coroutine_threadsafe(self._check(), self._loop).result()
            raise BrowserDied(f"the page did not answer within {limit_s:g} s") from None
        except Error as error:
            raise BrowserDied(f"the page or its browser is gone: {str(error).splitlines()[0]}") from error

    async def window(self, size: tuple[int, int]) -> Window:
        """Return a window of this size: a spare one, cleared of its last episode, or a new one."""
        if self._rest is not None:
            self._rest.cancel()
        browser = await self._started()
        found = next((window for window in self._spare if window.size == size), None)
        if found is None:
            found = await self._new_window(browser, size)
        else:
            self._spare.remove(found)
            await found.context.clear_cookies()
        self._used.add(found)
        return found

    async def put_back(self, window: Window, *, sound: bool) -> None:
        """Return a window; one that is not sound is closed."""
        self._used.discard(window)
        alive = window.context.browser is self._browser and not window.crashed
        if sound and alive and len(self._spare) < MOST_SPARE:
            self._spare.append(window)
        else:
            await self._close_context(window.context)
        if not self._used:
            self._rest = self._loop.call_later(REST_S, lambda: asyncio.ensure_future(self._end_unused()))

    async def _new_window(self, browser: PlaywrightBrowser, size: tuple[int, int]) -> Window:
        """Make a context without service workers or downloads, with fixed language and time zone."""
        context = await browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            service_workers="block",
            accept_downloads=False,
            locale="en-US",
            timezone_id="UTC",
            reduced_motion="reduce",
        )
        try:
            await context.add_init_script(page_script())
            page = await context.new_page()
            window = Window(context, page, await context.new_cdp_session(page), size)
        except BaseException:
            await self._close_context(context)
            raise
        page.on("domcontentloaded", lambda _: window.has_loaded())
        page.on("close", lambda _: window.loaded.set())
        page.on("crash", lambda _: self._lose(window))
        return window

    async def _lose(self, window: Window) -> None:
        """Close a window whose page process has died, which ends the calls that wait for it."""
        window.crashed = True
        if window in self._spare:
            self._spare.remove(window)
        await self._close_context(window.context)

    async def _close_context(self, context: BrowserContext) -> None:
        """Close a context. A browser that has died has nothing to close."""
        from playwright.async_api import Error

        with suppress(Error, TimeoutError):
            await asyncio.wait_for(context.close(), PULSE_S)

    def close(self) -> None:
        """End the browser and its thread."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
            asyncio.run_coroutine_threadsafe(self.web.stop(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _started(self) -> PlaywrightBrowser:
        async with self._starting:
            if self._browser is not None and self._browser.is_connected():
                return self._browser
            await self._kill()
            return await self._start()

    async def _start(self) -> PlaywrightBrowser:
        from playwright.async_api import async_playwright

        path = program()
        if path is None:
            raise EnvironmentMissing(CHROMIUM)
        self._port = self._port or await self.web.start()
        self._playwright = await async_playwright().start()
        self._browser = await self._playwright.chromium.launch(
            executable_path=path,
            args=FLAGS,
            timeout=START_S * 1000,
            env=dict(child_variables()),
            handle_sigint=False,
            handle_sigterm=False,
            handle_sighup=False,
            proxy={"server": f"http://127.0.0.1:{self._port}", "bypass": "<-loopback>"},
        )
        session = await self._browser.new_browser_cdp_session()
        processes = (await session.send("SystemInfo.getProcessInfo"))["processInfo"]
        self._pid = next(process["id"] for process in processes if process["type"] == "browser")
        return self._browser

    async def _check(self) -> None:
        """Check whether the browser responds; kill it if it does not."""
        from playwright.async_api import Error

        browser = self._browser
        if browser is None:
            return
        try:
            async with asyncio.timeout(PULSE_S):
                session = await browser.new_browser_cdp_session()
                await session.detach()
        except (TimeoutError, Error) as error:
            log.warning("killing the browser, which hangs: %s", type(error).__name__)
            if self._browser is browser:
                await self._kill()

    async def _kill(self) -> None:
        """End the browser without its cooperation."""
        from playwright.async_api import Error

        browser, playwright, pid = self._browser, self._playwright, self._pid
        self._browser, self._playwright, self._pid = None, None, 0
        self._spare.clear()
        if pid:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(Error, TimeoutError):
            if browser is not None:
                await asyncio.wait_for(browser.close(), PULSE_S)
        with suppress(Error, TimeoutError):
            if playwright is not None:
                await asyncio.wait_for(playwright.stop(), PULSE_S)

    async def _end_unused(self) -> None:
        async with self._starting:
            if not self._used:
                await self._end()

    async def _end(self) -> None:
        browser = self._browser
        if browser is not None and browser.is_connected():
            with suppress(TimeoutError):
                await asyncio.wait_for(browser.close(), PULSE_S)
                self._pid = 0
        await self._kill()


_shared: Browser | None = None
_lock = threading.Lock()


def shared() -> Browser:
    """Return this process's browser, which starts with its first window and ends with the process.

    Raises:
        EnvironmentMissing: Playwright or Chromium is not installed.
    """
    global _shared
    if (needs := missing()) is not None:
        raise EnvironmentMissing(needs)
    with _lock:
        if _shared is None:
            _shared = Browser()
            atexit.register(_shared.close)
        return _shared
