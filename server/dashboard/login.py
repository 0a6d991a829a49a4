"""The login: takes a key and keeps it in a cookie that scripts cannot read and other sites cannot send.

The cookie names no path, so it belongs to the folder of the login page as the browser sees it: `/ui`, or `/PREFIX/ui`
behind a proxy.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Annotated

from fastapi import Query, Request, Response

from server.dashboard.forms import FormOf, check_site, read_form
from server.dashboard.frame import anyones_page, see_other
from server.dashboard.inside import Refused, cookie_name, identify
from server.dashboard.problems import pages_router

KEPT_S = 30 * 24 * 3600
"""How long a browser stays logged in; default chosen by this project."""
_KEY = re.compile(r"[A-Za-z0-9._~+/=-]{1,500}")
_PLACE = re.compile(r"[A-Za-z0-9_.~%?&=+@-][A-Za-z0-9_.~%?&=+@/-]*")
"""A path below `/ui/`: it cannot name another host."""

router = pages_router()


@router.get("/login")
async def login_page(request: Request, next: Annotated[str, Query(max_length=2000)] = "") -> Response:
    """Ask for a key."""
    return _ask(request, next)


@router.post("/login")
async def login(request: Request) -> Response:
    """Take a key."""
    check_site(request)
    form = await read_form(request)
    key, place = form.text("key"), form.text("next")
    if not _KEY.fullmatch(key):
        return _ask(
            request, place, "Enter a key: `python -m server keys create --name NAME --scope admin` makes one.", 400
        )
    try:
        await identify(request, key)
    except Refused as refused:
        if refused.status not in (HTTPStatus.UNAUTHORIZED, HTTPStatus.TOO_MANY_REQUESTS):
            raise
        return _ask(request, place, refused.message, refused.status)
    answer = see_other(request, place if _PLACE.fullmatch(place) else "")
    answer.set_cookie(
        cookie_name(request),
        key,
        max_age=KEPT_S,
        path=None,
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return answer


@router.post("/logout")
async def logout(request: Request, form: FormOf) -> Response:
    """Forget the key."""
    answer = see_other(request, "login")
    answer.set_cookie(cookie_name(request), "", max_age=0, path=None, httponly=True, samesite="strict")
    return answer


def _ask(request: Request, place: str, wrong: str = "", status: int = 200) -> Response:
    return anyones_page(request, "login.html", title="Log in", status=status, place=place, wrong=wrong)
