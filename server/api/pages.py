"""What answers here (`/`), and every route with a form to try it (`/docs`). The dashboard is in `server/dashboard/`.

`/docs` is Swagger UI. Its files come from the package `fastapi-swagger`, so the page needs no other site.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response

from server.api.services import service
from server.errors import NotFound, Unavailable
from server.metrics import Metrics
from server.recording.trainable import summary
from server.versions.routing import Pointers
from upturn import __version__, packages

PACKAGE = "fastapi_swagger"
SCRIPTS = ("swagger-ui-bundle.js", "start.js")
STYLE, ICON = "swagger-ui.css", "favicon-32x32.png"
FILES = {SCRIPTS[0]: "text/javascript", STYLE: "text/css", ICON: "image/png"}
"""Media types of Swagger UI's files that are served."""
POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",  # Swagger UI sets style attributes.
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
"""Content-Security-Policy of the pages: nothing from another site, no inline script."""
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
START = """\
window.ui = SwaggerUIBundle({
  url: new URL("../openapi.json", document.currentScript.src).href,
  dom_id: "#routes",
  deepLinking: true,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis],
});
"""

MetricsOf = Annotated[Metrics, service(Metrics)]
PointersOf = Annotated[Pointers, service(Pointers)]

router = APIRouter(include_in_schema=False)


@router.head("/")
@router.get("/")
async def home(request: Request, pointers: PointersOf, metrics: MetricsOf) -> Response:
    """Lead browsers to the dashboard; tell programs what this server is and where to go."""
    base = str(request.base_url).rstrip("/")
    links = {"api": f"{base}/v1", "docs": f"{base}/docs", "ready": f"{base}/readyz"}
    turns = summary(*metrics.recent_turns())
    if "text/html" in request.headers.get("accept", ""):
        return RedirectResponse("ui/", 307, {"cache-control": "no-store", "vary": "accept"})
    return JSONResponse({"name": "Upturn", "version": __version__, "model": pointers.name, **links, "turns": turns})


@router.get("/docs")
async def routes_page() -> Response:
    """Show every route."""
    _files()
    return _page(
        "Upturn: routes",
        '<div id="routes"></div>' + "".join(f'<script src="docs/{name}"></script>' for name in SCRIPTS),
        f'<link rel="stylesheet" href="docs/{STYLE}"><link rel="icon" href="docs/{ICON}">',
    )


@router.get("/docs/start.js")
async def start_script() -> Response:
    """Return the script that shows the routes: the page's policy allows no inline script."""
    return Response(START, media_type="text/javascript", headers=HEADERS)


@router.get("/docs/{name}")
async def file(name: str) -> Response:
    """Return a file of Swagger UI."""
    if name not in FILES:
        raise NotFound(f"path not found: /docs/{name}")
    return FileResponse(_files() / name, media_type=FILES[name], headers=HEADERS)


@router.get("/redoc")
async def old_page() -> Response:
    """Lead to the page that shows the same."""
    return RedirectResponse("docs")


@cache
def _files() -> Path:
    """Return the directory of Swagger UI's files; the package is found without being imported."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise Unavailable(f"this page needs {packages.command('fastapi-swagger')}; /openapi.json has the routes")
    return Path(next(iter(spec.submodule_search_locations))) / "resources"


def _page(title: str, body: str, head: str = "") -> HTMLResponse:
    return HTMLResponse(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>{head}</head>'
        f"<body>{body}</body></html>",
        headers=HEADERS,
    )
