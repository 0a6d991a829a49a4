"""Scripts of others are the known ones: a changed file must be looked at before it is served."""

from __future__ import annotations

import hashlib
import re

import pytest

from server.dashboard.assets import STATIC
from server.dashboard.frame import NAVIGATION, TEMPLATES

VENDOR = STATIC / "vendor"
HASHES = {
    "htmx.min.js": "d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717",
    "htmx-ext-sse.js": "98a46496de0c3605fbffdce9167ba427bdd9553184f83f149c261891a92c0136",
    "uplot.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uplot.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}
"""SHA-256 of each file."""


def test_the_files_are_the_known_ones_and_each_names_its_license() -> None:
    found = {path.name for path in VENDOR.iterdir()}
    assert {name for name in found if name.endswith((".js", ".css"))} == set(HASHES)
    written = (VENDOR / "README.md").read_text()
    for name, known in HASHES.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == known, name
        assert f"`{name}`" in written
    for license in re.findall(r"`(LICENSE\.[\w.-]+)`", written):
        assert license in found and (VENDOR / license).stat().st_size > 100


@pytest.mark.parametrize("path", sorted(TEMPLATES.rglob("*.html")), ids=lambda path: str(path.relative_to(TEMPLATES)))
def test_no_template_writes_what_the_policy_forbids_or_shows_text_unescaped(path: object) -> None:
    text = path.read_text()  # type: ignore[attr-defined]
    assert not re.search(r"\sstyle=|\son[a-z]+=|hx-on|javascript:|<style|https?://", text)
    assert "| safe" not in text and "|safe" not in text and "autoescape" not in text
    for tag in re.findall(r"<script\b[^>]*>", text):
        assert 'src="{{ static }}' in tag or 'type="application/json"' in tag, tag


def test_every_section_of_the_navigation_has_a_page() -> None:
    from server.dashboard.site import ROUTERS

    paths = {getattr(route, "path", "") for router in ROUTERS for route in router.routes}
    assert {f"/ui/{place}" for place, _ in NAVIGATION} <= paths
