"""Templates and the headers of every page.

Every value that a template shows is escaped. The policy in `HEADERS` lets a page load nothing from another site
and run nothing that is written into it. All links are relative to `ui`, the way back to `/ui/`, so the dashboard also
works behind a proxy that adds a prefix.
"""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from server.dashboard import assets, shown
from server.dashboard.forms import token_of
from server.dashboard.inside import Viewer
from server.dashboard.paths import ROOT, way_back
from upturn import __version__

TEMPLATES = Path(__file__).parent / "templates"
POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ]
)
"""Content-Security-Policy of the pages: nothing from another site, no inline script or style, no frame."""
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    # Not `no-referrer`: with it, browsers send forms with the origin `null`.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
NAVIGATION = (
    ("", "Home"),
    ("episodes", "Episodes"),
    ("learning", "Learning"),
    ("versions", "Versions"),
    ("leaderboard", "Leaderboard"),
    ("runs", "Runs"),
    ("schedule", "Schedule"),
)
"""Path below `/ui/` and name of each section."""


@cache
def _templates() -> Environment:
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(shown.FILTERS)
    made.globals.update(navigation=NAVIGATION, release=__version__)
    return made


def part(request: Request, template: str, /, **values: Any) -> str:
    """Return a rendered template: a page, or a part of one that is sent on its own.

    A part that is put into a page at another depth than the request's path gets `ui`, the way back from that page.
    """
    path = request.scope["path"].partition(ROOT)[2]
    shared = {
        "ui": way_back(request),
        "static": f"{way_back(request)}static/{assets.digest()}/",
        "section": path.partition("/")[0],
        "token": token_of(request),
        "now": time.time(),
        "viewer": None,
    }
    return _templates().get_template(template).render({**shared, **values})


def page(viewer: Viewer, template: str, /, *, title: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Return a page for a viewer.

    Args:
        viewer: who looks.
        template: name of a file in `templates/`, which extends `base.html`.
        title: title of the page.
        status: HTTP status.
        values: what the template shows.
    """
    return anyones_page(viewer.request, template, title=title, status=status, viewer=viewer, **values)


def anyones_page(request: Request, template: str, /, *, title: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Return a page that needs no viewer, such as the login."""
    return HTMLResponse(part(request, template, title=title, **values), status, HEADERS)


def fragment(viewer: Viewer, template: str, /, **values: Any) -> HTMLResponse:
    """Return a part of a page, which a script asks for."""
    return HTMLResponse(part(viewer.request, template, viewer=viewer, **values), headers=HEADERS)


def see_other(request: Request, place: str) -> RedirectResponse:
    """Lead to another page after a form. `place` is a path below `/ui/`, such as `runs/ID`."""
    return RedirectResponse(f"{way_back(request)}{place}", 303, {"cache-control": "no-store"})
