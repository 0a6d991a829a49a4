"""Refuses what a foreign web site makes a browser send: DNS rebinding, cross-site requests, forms.

A server without keys trusts everyone who reaches it. A browser on the same machine reaches it for every page that it
shows, so the server tells its own clients from such pages by headers that pages cannot forge:

- `Host` must be a loopback name, the address the server listens on, or one of `allowed_hosts`. A page whose own name
  was pointed at this machine (DNS rebinding) sends its own name.
- `Origin` must be the server itself or one of `allowed_origins`.
- `Sec-Fetch-Site` must not name another site, except where a person follows a link.

Where keys are required, a page can do nothing without one. There `Host` is checked only if `allowed_hosts` is set, and
`Origin` only where browsers ask first (CORS preflights) or never ask (WebSockets). Starlette's `CORSMiddleware` lets
the pages of `allowed_origins` read the answers.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from fastapi import Depends
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from server.api.access.errors import ErrorAnswers
from server.errors import BadRequest, Forbidden

ANY = "*"
PAGES = "/ui/"
"""Paths of the dashboard, which takes forms: it checks itself who sent them."""
SAFE = ("GET", "HEAD")
_HOST = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[a-z0-9_.-]+))(?::[0-9]{0,5})?", re.ASCII)
JSON = re.compile(r"application/(?:[\w.-]+\+)?json", re.ASCII)


@dataclass(frozen=True, slots=True)
class SiteRules:
    """Which names and web pages a server accepts."""

    keys_required: bool
    own_host: str
    """The address the server listens on."""
    hosts: Sequence[str] = ()
    """Further names of the server; `*.example.com` stands for every name below it."""
    origins: Sequence[str] = ()
    """Lower-case web origins whose pages may call the server; `*` for any."""

    def check(self, kind: str, method: str, headers: Headers) -> None:
        """Check a request.

        Args:
            kind: `http` or `websocket`.
            method: the HTTP method.
            headers: the request's headers.

        Raises:
            Forbidden: the request is for another host, or a foreign page sent it.
        """
        named = headers.getlist("host")
        if (not self.keys_required or self.hosts) and not (len(named) == 1 and self._serves(named[0])):
            what = f"names {', '.join(named)[:200]!r}, which is not this server" if named else "is missing"
            raise Forbidden(
                f"the Host header {what}: call the server as localhost, or add its name to the setting `allowed_hosts`",
                code="host_not_allowed",
            )
        preflight = method == "OPTIONS" and "access-control-request-method" in headers
        if (not self.keys_required or kind == "websocket" or preflight) and self._is_foreign(kind, method, headers):
            page = ", ".join(headers.getlist("origin"))[:200] or "another site"
            raise Forbidden(
                f"pages from {page} may not connect: add the page's origin, such as `http://localhost:3000`, to the "
                "setting `allowed_origins`",
                code="origin_not_allowed",
            )

    def _serves(self, host: str) -> bool:
        name = name_of(host)
        if name is None:
            return False
        return is_loopback(name) or self._is_known(name)

    def _is_known(self, name: str) -> bool:
        known = {name_of(own) or name_of(f"[{own}]") for own in (self.own_host, *self.hosts)}
        below = (own[1:].lower() for own in self.hosts if own.startswith("*."))
        return name in known or any(name.endswith(end) for end in below)

    def _is_foreign(self, kind: str, method: str, headers: Headers) -> bool:
        """Return whether a page of another origin sends the request, and that origin is not allowed."""
        origins = [origin.lower() for origin in headers.getlist("origin")]
        if origins and (ANY in self.origins or set(origins) <= set(self.origins)):
            return False
        if any(not _is_own(origin, headers) for origin in origins):
            return True
        if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
            return False
        # Not into a frame, where a person can be made to click without seeing what.
        follows_link = headers.get("sec-fetch-mode") == "navigate"
        whole_page = headers.get("sec-fetch-dest", "document") == "document"
        return not (kind == "http" and method in SAFE and follows_link and whole_page)


class Sites:
    """Applies the rules to every request and WebSocket. Plain ASGI, so streams are not buffered."""

    def __init__(self, app: ASGIApp, rules: SiteRules, errors: ErrorAnswers) -> None:
        self._app = app
        self._rules = rules
        self._errors = errors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it on."""
        if scope["type"] in ("http", "websocket"):
            try:
                self._rules.check(scope["type"], scope.get("method", "GET"), Headers(scope=scope))
            except Forbidden as error:
                await self._errors.answer(scope["path"], error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


async def _json_only(connection: HTTPConnection) -> None:
    """Refuse bodies that a page can send to another site without asking: forms, and text of no declared type."""
    if connection.scope["path"].startswith(PAGES):
        return
    headers = connection.headers
    kind = media_type(headers)
    has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
    is_request = connection.scope["type"] == "http" and connection.scope["method"] not in SAFE
    if is_request and (has_body or kind) and not JSON.fullmatch(kind):
        raise BadRequest(
            "the body must be JSON: send the header `Content-Type: application/json`", code="unsupported_media_type"
        )


json_only = Depends(_json_only)
"""Requires that a body is declared as JSON."""


def media_type(headers: Headers) -> str:
    """Return the type of a body, without parameters."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


@lru_cache(maxsize=64)
def name_of(host: str) -> str | None:
    """Return the name or address in a `Host` header, in one spelling and without port; None if it is malformed."""
    match = _HOST.fullmatch(host.strip().lower())
    if match is None:
        return None
    if match["v6"] is None:
        return str(match["name"]).removesuffix(".") or None  # The dot ends a complete DNS name.
    try:
        address = ipaddress.IPv6Address(match["v6"])
    except ValueError:
        return None
    return str(address.ipv4_mapped or address)


@lru_cache(maxsize=64)
def is_loopback(name: str) -> bool:
    """Return whether a name or address in `name_of`'s spelling always means this machine."""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _is_own(origin: str, headers: Headers) -> bool:
    """Return whether an origin is this server, under the name and port by which the request calls it."""
    scheme, _, place = origin.partition("://")
    return scheme in ("http", "https") and place == headers.get("host", "").strip().lower()
