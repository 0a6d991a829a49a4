"""Who may look at the dashboard and who may change something: keys, cookies, other sites, logout, prefixes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute

from server.dashboard.frame import HEADERS
from tests.support.keys import client, new_key
from tests.support.live import Live, script, serving, settings_for
from tests.support.pages.signed_in import Visitor
from upturn.wire import EpisodeOpen

EVIL = "https://evil.example"
OPEN_PAGES = {"/ui", "/ui/login", "/ui/{place:path}"}
"""Pages that need no key: they show nothing of the server."""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server that requires keys."""
    home: Path = tmp_path_factory.mktemp("dashboard")
    model = script(home / "script", "Hello there.")
    with serving(settings_for(home / "data", model=str(model), keys="required")) as live:
        yield live


@pytest.fixture(scope="module")
def admin(guarded: Live) -> Visitor:
    return Visitor(guarded, new_key(guarded, "admin").key)


def pages(live: Live) -> list[str]:
    """Return the place of every page, with an example in each place of a name."""
    routes = [route for route in live.app.routes if isinstance(route, APIRoute) and "GET" in route.methods]
    paths = [route.path for route in routes if route.path.startswith("/ui") and "/static/" not in route.path]
    examples = {"{version}": "0", "{number}": "1"}
    return [
        re.sub(r"{\w+}", lambda name: examples.get(name[0], "none"), path.removeprefix("/ui/"))
        for path in paths
        if path not in OPEN_PAGES
    ]


def test_without_a_key_every_page_leads_to_the_login_and_back(guarded: Live) -> None:
    places = pages(guarded)
    assert len(places) > 12
    for key in ("", "up-wrong", new_key(guarded, "admin").key + "x"):
        for place in places:
            answer = Visitor(guarded, key).get(place)
            assert answer.status_code == 303, place
            back = answer.headers["location"]
            assert back.lstrip("./").startswith("login?next=") and not back.startswith("/"), back
            assert "up-wrong" not in answer.text
    assert guarded.http.get("/ui/episodes?text=a%20b").headers["location"] == "./login?next=episodes%3Ftext%3Da%2520b"


def test_a_login_keeps_the_key_where_no_script_and_no_other_site_reaches_it(guarded: Live, admin: Visitor) -> None:
    for scheme in ("http", "https"):
        headers = {**Visitor(guarded).headers, "x-forwarded-proto": scheme}
        answer = guarded.http.post("/ui/login", data={"key": admin.key, "next": "runs?campaign=a"}, headers=headers)
        assert (answer.status_code, answer.headers["location"]) == (303, "./runs?campaign=a")
        cookie = answer.headers["set-cookie"]
        parts = {part.strip().lower().partition("=")[0] for part in cookie.split(";")[1:]}
        assert cookie.startswith(f"{admin.cookie_name}={admin.key};")
        assert "samesite=strict" in cookie.lower() and {"httponly", "max-age"} <= parts
        assert ("secure" in parts) == (scheme == "https")
        # Without a path, the cookie belongs to the folder of the login page, whatever prefix a proxy adds.
        assert not {"path", "domain"} & parts
    assert admin.get("").status_code == 200
    guarded.http.cookies.clear()


def test_a_wrong_key_is_refused_on_the_page_and_sets_no_cookie(guarded: Live) -> None:
    for key, status in (("up-wrong", 401), ("", 400), ("a\nb", 400), ('"><script>', 400), ("x" * 600, 400)):
        answer = guarded.http.post("/ui/login", data={"key": key}, headers=Visitor(guarded).headers)
        assert answer.status_code == status, key
        assert "set-cookie" not in answer.headers and "<script>" not in answer.text.replace("<script src", "")
        assert 'role="alert"' in answer.text and 'name="key"' in answer.text


@pytest.mark.parametrize("place", ["//evil.example", EVIL, "/\\evil.example", "javascript:alert(1)", "\\\\evil", "/v1"])
def test_a_login_never_leads_to_another_site(guarded: Live, admin: Visitor, place: str) -> None:
    answer = guarded.http.post("/ui/login", data={"key": admin.key, "next": place}, headers=Visitor(guarded).headers)
    assert (answer.status_code, answer.headers["location"]) == (303, "./")
    guarded.http.cookies.clear()


def test_a_key_sees_and_changes_what_its_scopes_allow(guarded: Live, admin: Visitor) -> None:
    made = new_key(guarded, "agent", "reward")
    agent, learner = Visitor(guarded, made.key), Visitor(guarded, new_key(guarded, "learner").key)
    mine, other = (
        client(guarded, made.key).open_episode(EpisodeOpen()),
        client(guarded, admin.key).open_episode(EpisodeOpen()),
    )
    home = agent.get("").text
    assert mine.id in home and other.id not in home
    assert other.id in admin.get("").text and made.name in home
    for visitor, place, status in (
        (agent, f"episodes/{mine.id}", 200),
        (agent, f"episodes/{other.id}", 404),
        (agent, "versions", 403),
        (agent, "runs", 403),
        (agent, "runs/new", 403),
        (learner, "versions", 200),
        (learner, "runs", 200),
        (learner, "runs/new", 403),
        (learner, "decisions/1", 403),
        (learner, "episodes", 403),
        (admin, "runs/new", 200),
    ):
        assert visitor.get(place).status_code == status, place
    for visitor in (agent, learner):
        for place, fields in (
            ("versions/0/promote", {"reason": "mine"}),
            ("rollback", {}),
            ("runs", {"toml": "steps = 1"}),
            ("schedule/triggers", {"name": "mine", "kind": "interval", "amount": "1"}),
        ):
            assert visitor.send(place, **fields).status_code == 403, place
    assert client(guarded, admin.key).runs().data == []
    assert [row.reason for row in client(guarded, admin.key).promotions().data if "mine" in row.reason] == []


def changed(live: Live, admin: Visitor) -> bool:
    """Return whether version 0 is pinned, and undo that."""
    policies = client(live, admin.key)
    pinned = policies.policies().data[-1].pinned
    if pinned:
        live.http.delete("/v1/policies/0/pin", headers={"authorization": f"Bearer {admin.key}"})
    return pinned


def test_a_form_changes_something_only_if_a_page_of_the_dashboard_sent_it(guarded: Live, admin: Visitor) -> None:
    token, own = admin.token(), {"cookie": admin.headers["cookie"]}
    same = {"origin": guarded.url}
    for headers, given, status in (
        ({**own}, token, 403),
        ({**own, "origin": EVIL}, token, 403),
        ({**own, "origin": "null"}, token, 403),
        ({**own, **same, "sec-fetch-site": "cross-site"}, token, 403),
        ({**own, **same, "sec-fetch-site": "same-site"}, token, 403),
        ({**own, **same}, "", 403),
        ({**own, **same}, "0" * 64, 403),
        ({**own, **same}, Visitor(guarded, new_key(guarded, "admin").key).token(), 403),
        ({**same}, token, 303),
        ({**own, **same}, token, 303),
        ({**own, "sec-fetch-site": "same-origin"}, token, 303),
    ):
        answer = admin.send("versions/0/pin", headers=headers, token=given)
        assert answer.status_code == status, (headers, given)
        may = status == 303 and "cookie" in headers
        assert changed(guarded, admin) == may, (headers, given)
        if not may and status == 303:
            assert "login" in answer.headers["location"]


def test_a_link_on_another_site_leads_to_the_page_although_the_browser_held_the_cookie_back(guarded: Live) -> None:
    first = Visitor(guarded).get("runs", sec_fetch_site="cross-site")
    assert first.status_code == 200 and 'http-equiv="refresh" content="0"' in first.text
    assert Visitor(guarded).get("runs", sec_fetch_site="same-origin").status_code == 303


def test_a_logout_takes_the_cookie_and_a_revoked_key_shows_nothing(guarded: Live, admin: Visitor) -> None:
    made = new_key(guarded, "admin")
    visitor = Visitor(guarded, made.key)
    answer = visitor.send("logout")
    assert (
        answer.headers["set-cookie"].startswith(f'{visitor.cookie_name}=""; ')
        and "Max-Age=0" in answer.headers["set-cookie"]
    )
    assert visitor.get("").status_code == 200
    client(guarded, admin.key).revoke_key(made.id)
    assert visitor.get("").status_code == 303
    asked = visitor.get("runs/new/toml", hx_request="true")
    assert asked.status_code == 401 and "login" in asked.headers["hx-redirect"]
    guarded.http.cookies.clear()


def test_no_page_shows_the_key_and_each_has_the_policy(guarded: Live, admin: Visitor) -> None:
    for place in [*pages(guarded), "login", "nowhere", "nowhere/at/all"]:
        if place.startswith("live/"):
            continue
        answer = admin.get(place)
        assert answer.status_code in (200, 400, 404), place
        for name, value in HEADERS.items():
            assert answer.headers[name] == value, (place, name)
        assert admin.key not in answer.text, place
        if answer.headers["content-type"].startswith("text/html"):
            assert not re.search(r"\sstyle=|\son\w+=|javascript:|<style|<base", answer.text), place
            for inline in re.findall(r"<script\b[^>]*>", answer.text):
                assert " src=" in inline or "application/json" in inline, inline


def test_a_prefix_of_a_proxy_stays_in_every_link(guarded: Live, admin: Visitor) -> None:
    assert guarded.http.get("/ui").headers["location"] == "ui/"
    for place in ["", "versions", "versions/0", "decisions/1", "runs/new", "episodes", "nowhere/at/all", "login"]:
        depth = place.count("/")
        for link in re.findall(r'(?:href|src|action|sse-connect|hx-get)="([^"]*)"', admin.get(place).text):
            if link.startswith("#"):
                continue
            assert re.match(r"\.\.?/", link), (place, link)
            climbs = link.count("../")
            assert climbs <= depth + ("/docs" in link), (place, link)


def test_without_keys_the_dashboard_opens_and_asks_for_nothing(tmp_path: Path) -> None:
    with serving(settings_for(tmp_path / "data", model=str(script(tmp_path / "script", "Hello.")))) as live:
        visitor = Visitor(live)
        page = visitor.get("")
        assert page.status_code == 200 and "Log out" not in page.text
        assert visitor.send("versions/0/pin").status_code == 303
        assert live.client.policies().data[0].pinned
        refused = live.http.post("/ui/versions/0/pin", data={"pinned": "no"}, headers={"origin": EVIL})
        assert refused.status_code == 403 and live.client.policies().data[0].pinned


def test_a_body_that_is_no_form_is_refused_on_a_page(guarded: Live, admin: Visitor) -> None:
    token = admin.token()

    def sent(content: bytes, kind: str = "application/x-www-form-urlencoded") -> Any:
        headers = {**admin.headers, "content-type": kind}
        return guarded.http.post("/ui/versions/0/promote", content=content, headers=headers)

    for answer, status in (
        (sent(b"{}", "application/json"), 400),
        (sent(b"\xff\xfe=%ff"), 400),
        (sent(b"&".join([b"a=1"] * 2000)), 400),
        (sent(f"token={token}&reason=a%00b".encode()), 400),
        (sent(b"a=" + b"x" * 1_100_000), 413),
        (admin.send("versions/99/promote"), 404),
        (admin.send("versions/none/promote"), 400),
        (admin.send("versions/0/promote", reason="x" * 2000), 400),
    ):
        assert answer.status_code == status and answer.headers["content-type"].startswith("text/html"), answer.text
