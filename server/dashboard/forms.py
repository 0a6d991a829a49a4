"""Forms that change something: only from this server's own pages.

Browsers send `Sec-Fetch-Site` or `Origin` with every form, and pages cannot forge them. In addition a form carries a
token that only this process can make, for the key of the person who was shown the form.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import parse_qs

from fastapi import Depends, Request

from server.api.access.sites import media_type
from server.dashboard.inside import cookie_name
from server.errors import BadRequest, Forbidden, TooLarge

LARGEST_BYTES = 1_000_000
MOST_FIELDS = 1000
_SECRET = secrets.token_bytes(32)


@dataclass(frozen=True, slots=True)
class Form:
    """The fields of a form."""

    fields: Mapping[str, Sequence[str]]

    def text(self, name: str, default: str = "") -> str:
        """Return a field without surrounding space; `default` where it is missing or empty."""
        return (self.fields.get(name) or [""])[-1].strip() or default

    def raw(self, name: str) -> str:
        """Return a field exactly as it was written, with line ends of one character."""
        return (self.fields.get(name) or [""])[-1].replace("\r\n", "\n")

    def texts(self, name: str) -> list[str]:
        """Return every value of a field that repeats."""
        return [text for value in self.fields.get(name, ()) if (text := value.strip())]


def token_of(request: Request) -> str:
    """Return the token that forms on a page carry."""
    key = request.cookies.get(cookie_name(request), "")
    return hmac.new(_SECRET, key.encode("utf-8", "replace"), hashlib.sha256).hexdigest()


def check_site(request: Request) -> None:
    """Check that a page of this server sent the form.

    Raises:
        Forbidden: another site did, or a program that says nothing.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin", "")
    host = request.headers.get("host", "").lower()
    own = site == "same-origin" if site is not None else origin.lower().partition("://")[2] == host != ""
    if not own:
        raise Forbidden("this form must be sent from the dashboard's own page", code="origin_not_allowed")


async def read_form(request: Request) -> Form:
    """Return the fields of a form, whoever sent it.

    Raises:
        BadRequest: it is not a form.
        TooLarge: it is too large.
    """
    if media_type(request.headers) not in ("application/x-www-form-urlencoded", ""):
        raise BadRequest("the body must be a form (application/x-www-form-urlencoded)", code="unsupported_media_type")
    received = bytearray()
    async for chunk in request.stream():
        received += chunk
        if len(received) > LARGEST_BYTES:
            raise TooLarge(f"the form is larger than {LARGEST_BYTES:,} bytes")
    try:
        fields = parse_qs(received.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MOST_FIELDS)
    except ValueError:
        raise BadRequest("the form cannot be read: send text in UTF-8, and fewer fields") from None
    if any("\0" in value for values in fields.values() for value in values):
        raise BadRequest("the form contains the character NUL")
    return Form(fields)


async def _form(request: Request) -> Form:
    check_site(request)
    form = await read_form(request)
    if not hmac.compare_digest(form.text("token").encode(), token_of(request).encode()):
        raise Forbidden("this form is from before a restart or a login: go back, reload the page, and send it again")
    return form


FormOf = Annotated[Form, Depends(_form)]
"""The fields of a form that a page of this server sent. Templates put the token in with `{{ forms.token(token) }}`."""
