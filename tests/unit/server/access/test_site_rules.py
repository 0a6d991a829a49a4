"""Which requests could come from a foreign web page: names in `Host`, origins, and what browsers say of a page."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from starlette.datastructures import Headers

from server.api.access.sites import SiteRules
from server.errors import Forbidden
from server.settings import Settings

OWN = "127.0.0.1:8000"
OPEN = SiteRules(keys_required=False, own_host="127.0.0.1")


def refusal(rules: SiteRules, headers: dict[str, str], kind: str = "http", method: str = "POST") -> str | None:
    try:
        rules.check(kind, method, Headers(headers))
    except Forbidden as error:
        return error.code
    return None


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8000",
        "LOCALHOST:1",
        "localhost.",
        "127.0.0.1",
        "127.0.0.1:65535",
        "127.8.9.10:80",
        "[::1]",
        "[::1]:8000",
        "[0:0:0:0:0:0:0:1]:8000",
        "[::ffff:127.0.0.1]:8000",
        "localhost:",
    ],
)
def test_a_server_without_keys_answers_to_every_loopback_name(host: str) -> None:
    assert refusal(OPEN, {"host": host}) is None


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "127.0.0.1@evil.example",
        "evil.example@localhost",
        "user:password@localhost:8000",
        "localhost@localhost",
        "localhost:8000:8000",
        "localhost/",
        "localhost, evil.example",
        "notlocalhost",
        "128.0.0.1",
        "0.0.0.0:8000",
        "192.168.1.7",
        "[::]",
        "[::2]:8000",
        "[fe80::1]",
        "[::1",
        "::1",
        "127.1",
        "2130706433",
        "loc\xe0lhost",
        "..",
        ".",
        "",
        " ",
    ],
)
def test_a_server_without_keys_refuses_every_other_name(host: str) -> None:
    assert refusal(OPEN, {"host": host}) == "host_not_allowed"
    assert refusal(OPEN, {"host": host}, method="GET") == "host_not_allowed"
    assert refusal(OPEN, {"host": host, "x-forwarded-host": "localhost"}, "websocket") == "host_not_allowed"


def test_a_request_without_host_or_with_two_is_refused() -> None:
    assert refusal(OPEN, {}) == "host_not_allowed"
    two = Headers(raw=[(b"host", b"localhost"), (b"host", b"evil.example")])
    with pytest.raises(Forbidden, match="allowed_hosts"):
        OPEN.check("http", "GET", two)


def test_a_server_answers_to_the_names_of_its_settings() -> None:
    rules = SiteRules(False, "localhost", hosts=("Shop.Example:8443", "*.lan", "fd00::7", "[fd00::8]"))
    for host in ("shop.example", "SHOP.example.:1", "a.lan", "a.b.lan:80", "[fd00::7]:1", "[fd00:0::8]", "localhost"):
        assert refusal(rules, {"host": host}) is None, host
    for host in ("evil.shop.example", "lan", "evillan", "[fd00::9]", "lan.evil.example"):
        assert refusal(rules, {"host": host}) == "host_not_allowed", host


def test_with_keys_any_name_is_accepted_until_names_are_set() -> None:
    assert refusal(SiteRules(True, "0.0.0.0"), {"host": "anything.example"}) is None
    assert refusal(SiteRules(True, "0.0.0.0"), {}) is None
    named = SiteRules(True, "0.0.0.0", hosts=("api.example",))
    assert refusal(named, {"host": "anything.example"}) == "host_not_allowed"
    for host in ("api.example", "127.0.0.1:8000", "0.0.0.0:8000"):  # The learner calls the address listened on.
        assert refusal(named, {"host": host}) is None


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "http://localhost:3000"},
        {"origin": "http://localhost:8000"},
        {"origin": "http://127.0.0.1"},
        {"origin": "http://127.0.0.1:8000.evil.example"},
        {"origin": "http://evil.example/127.0.0.1:8000"},
        {"origin": "file://127.0.0.1:8000"},
        {"origin": "http://user@127.0.0.1:8000"},
        {"origin": "https://evil.example", "sec-fetch-site": "same-origin"},
        {"origin": "http://127.0.0.1:8000", "sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "anything new"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"},
    ],
)
@pytest.mark.parametrize(
    ("kind", "method"), [("http", "GET"), ("http", "POST"), ("http", "DELETE"), ("websocket", "GET")]
)
def test_without_keys_pages_of_other_origins_are_refused(headers: dict[str, str], kind: str, method: str) -> None:
    assert refusal(OPEN, {"host": OWN, **headers}, kind, method) == "origin_not_allowed"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "http://127.0.0.1:8000"},
        {"origin": "https://127.0.0.1:8000", "sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none", "sec-fetch-mode": "navigate"},
        {"referer": "https://evil.example/"},
    ],
)
def test_programs_and_the_servers_own_pages_are_accepted(headers: dict[str, str]) -> None:
    for kind, method in (("http", "POST"), ("websocket", "GET")):
        assert refusal(OPEN, {"host": OWN, **headers}, kind, method) is None


def test_a_person_may_follow_a_link_to_the_server_but_no_page_may_post_or_connect_by_one() -> None:
    link = {"host": OWN, "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert refusal(OPEN, link, method="GET") is None
    for kind, method in (("http", "POST"), ("http", "DELETE"), ("websocket", "GET")):
        assert refusal(OPEN, link, kind, method) == "origin_not_allowed"


def test_pages_of_allowed_origins_are_accepted_and_no_others() -> None:
    rules = SiteRules(False, "127.0.0.1", origins=("http://localhost:3000", "chrome-extension://abc"))
    cross = {"host": OWN, "sec-fetch-site": "cross-site"}
    for origin in ("http://localhost:3000", "chrome-extension://abc"):
        assert refusal(rules, {**cross, "origin": origin}) is None
        assert refusal(rules, {**cross, "origin": origin}, "websocket", "GET") is None
    for origin in ("http://localhost:3001", "https://localhost:3000", "http://localhost:30001", "null"):
        assert refusal(rules, {**cross, "origin": origin}) == "origin_not_allowed"
    assert refusal(rules, {"host": "evil.example", "origin": "http://localhost:3000"}) == "host_not_allowed"


def test_with_keys_a_page_needs_one_so_only_preflights_and_websockets_are_checked() -> None:
    rules = SiteRules(True, "0.0.0.0")
    foreign = {"host": "api.example", "origin": "https://evil.example", "sec-fetch-site": "cross-site"}
    assert refusal(rules, foreign) is None
    assert (
        refusal(rules, {**foreign, "access-control-request-method": "POST"}, method="OPTIONS") == "origin_not_allowed"
    )
    assert refusal(rules, foreign, "websocket", "GET") == "origin_not_allowed"
    everyone = SiteRules(True, "0.0.0.0", origins=("*",))
    assert refusal(everyone, {**foreign, "access-control-request-method": "POST"}, method="OPTIONS") is None


@pytest.mark.parametrize(
    "flags",
    [
        ["--allowed-origins", "*"],
        ["--allowed-origins", "null"],
        ["--allowed-origins", "localhost:3000"],
        ["--allowed-origins", "http://localhost:3000/"],
        ["--allowed-origins", "http://user@localhost"],
        ["--allowed-hosts", "*"],
        ["--allowed-hosts", "http://shop.example"],
        ["--allowed-hosts", "shop.example/x"],
    ],
)
def test_settings_that_name_no_host_or_origin_are_refused_at_the_start(flags: list[str]) -> None:
    with pytest.raises(ValidationError, match="allowed"):
        Settings.load(flags)


def test_every_page_may_be_allowed_where_keys_are_required() -> None:
    assert Settings.load(["--keys", "required", "--allowed-origins", "*"]).allowed_origins == ["*"]
