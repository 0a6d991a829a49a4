"""`/`, which leads people to the dashboard, and `/docs`, which works without any other site."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from env_adapters.browser.browser import program
from server.api import pages
from server.api.access.authentication import OPEN
from tests.support.live import Live, script, serving, settings_for

HASHES = {
    "swagger-ui-bundle.js": "3f6abf70480db7e07914df4c98a77385f22ea585eaf457a3e6415ba0eae2d167",
    "swagger-ui.css": "c3cfe8248c4b0b89673600fb829924eafbac6de4bc4b2b06f5f5243483074d0a",
    "favicon-32x32.png": "3ed612f41e050ca5e7000cad6f1cbe7e7da39f65fca99c02e99e6591056e5837",
}
"""SHA-256 of the files that the pages run; a changed file must be looked at before it is served."""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server that requires keys."""
    path = tmp_path_factory.mktemp("pages")
    with serving(settings_for(path / "data", model=str(script(path / "script", "Hello.")), keys="required")) as live:
        yield live


def test_the_root_leads_browsers_to_the_dashboard_and_tells_programs_what_this_is(guarded: Live) -> None:
    page = guarded.http.get("/", headers={"accept": "text/html,*/*"})
    assert (page.status_code, page.headers["location"]) == (307, "ui/")
    said = guarded.http.get("/").json()
    assert said["api"] == f"{guarded.url}/v1" and said["ready"] == f"{guarded.url}/readyz"


def test_the_files_of_the_pages_are_the_known_ones(guarded: Live) -> None:
    for name, known in HASHES.items():
        answer = guarded.http.get(f"/docs/{name}")
        assert answer.status_code == 200 and answer.headers["content-type"].startswith(pages.FILES[name])
        assert hashlib.sha256(answer.content).hexdigest() == known
        assert f"/docs/{name}" in OPEN
    assert guarded.http.get("/docs/pages.py").status_code in (401, 404)


def test_the_page_of_routes_loads_nothing_from_another_site(guarded: Live) -> None:
    answer = guarded.http.get("/docs", headers={"accept": "text/html"})
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "http" not in answer.text.replace(guarded.url, "")
    assert guarded.http.get("/redoc", follow_redirects=True).url.path == "/docs"


@pytest.mark.skipif(program() is None, reason="needs Chromium")
def test_a_browser_without_network_shows_every_route(guarded: Live, tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    errors: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program(),
            args=["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"],
        )
        page = browser.new_page()
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto(f"{guarded.url}/docs")
        page.wait_for_selector(".opblock", timeout=60_000)
        shown = page.locator(".opblock-summary-path").all_inner_texts()
        browser.close()
    assert not errors
    paths = {path.replace("\u200b", "") for path in shown}
    assert paths == set(guarded.http.get("/openapi.json").json()["paths"])
