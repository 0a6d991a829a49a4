"""A person's browser for tests of pages: headless Chromium that reports whatever a page does wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from env_adapters.browser.browser import program

WIDE, NARROW = 1280, 360


@dataclass
class Look:
    """A browser with one page."""

    page: Any
    """Playwright's page."""
    url: str
    """Where the dashboard is."""
    wrong: list[str] = field(default_factory=list)
    """Errors, violations of the pages' policy, and requests to other places."""

    def at(self, place: str) -> Any:
        """Open a page below `/ui/`; return Playwright's page."""
        self.page.goto(f"{self.url}/ui/{place}", wait_until="load")
        return self.page

    def overflows(self) -> int:
        """Return by how many pixels the page is wider than its window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


@contextmanager
def looking(
    url: str, *, width: int = WIDE, height: int = 900, dark: bool = False, scripts: bool = True
) -> Iterator[Look]:
    """Open a browser until the block ends, and fail if a page did something wrong.

    Args:
        url: the server.
        width: of the window, in pixels.
        height: of the window, in pixels.
        dark: the person prefers dark pages.
        scripts: run the pages' scripts.
    """
    playwright_api = pytest.importorskip("playwright.sync_api")
    if program() is None:
        pytest.skip("needs Chromium")
    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program(), args=["--no-sandbox", "--disable-gpu"])
        try:
            context = browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme="dark" if dark else "light",
                java_script_enabled=scripts,
                timezone_id="Europe/Berlin",
            )
            page = context.new_page()
            look = Look(page, url)
            page.on("pageerror", lambda error: look.wrong.append(f"error: {error}"))
            page.on("console", lambda said: look.wrong.append(said.text) if said.type == "error" else None)
            page.on("dialog", lambda dialog: (look.wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
            page.on("request", lambda asked: _check(look, asked.url))
            yield look
        finally:
            browser.close()
    assert look.wrong == []


def _check(look: Look, asked: str) -> None:
    if not asked.startswith((f"{look.url}/ui/", "data:", "about:")):
        look.wrong.append(f"request to {asked}")
