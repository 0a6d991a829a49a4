"""Requests that a foreign web page could make a browser send, over a real socket; no route answers one."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websockets.sync.client as websockets
from fastapi.routing import APIRoute
from websockets.exceptions import InvalidStatus

from server.api.access.sites import json_only
from tests.support.live import Live, script, serving, settings_for

EVIL = "https://evil.example"
PAGE = "http://localhost:3000"
CHAT = {"model": "policy", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    directory: Path = tmp_path_factory.mktemp("sites")
    model = script(directory / "script", "Hello there.")
    with serving(settings_for(directory / "data", model=str(model), allowed_origins=[PAGE])) as started:
        yield started


def every_route(live: Live) -> Iterator[tuple[str, str]]:
    for route in live.app.routes:
        path = route.path.replace(":path", "").replace("{", "").replace("}", "")  # type: ignore[attr-defined]
        for method in getattr(route, "methods", None) or ():
            yield method, path


def test_no_route_answers_a_foreign_page_or_a_foreign_name(live: Live) -> None:
    paths = list(every_route(live))
    assert len(paths) > 60 and ("GET", "/metrics") in paths and ("GET", "/healthz") in paths
    for method, path in paths:
        for headers, code in (
            ({"host": "evil.example"}, "host_not_allowed"),
            ({"origin": EVIL}, "origin_not_allowed"),
            ({"origin": EVIL, "authorization": "Bearer any"}, "origin_not_allowed"),
            ({"sec-fetch-site": "cross-site"}, "origin_not_allowed"),
        ):
            answer = live.http.request(method, path, headers=headers)
            assert answer.status_code == 403, (method, path, headers)
            if method != "HEAD":
                assert code in answer.text or path.startswith("/v1/messages")
            assert "access-control-allow-origin" not in answer.headers


def test_the_refusal_has_the_form_of_the_apis_clients_and_names_the_setting(live: Live) -> None:
    openai = live.http.post("/v1/chat/completions", json=CHAT, headers={"origin": EVIL}).json()
    assert openai["error"]["type"] == "invalid_request_error" and "`allowed_origins`" in openai["error"]["message"]
    anthropic = live.http.post("/v1/messages", json=CHAT, headers={"host": "evil.example"}).json()
    assert anthropic["type"] == "error" and "`allowed_hosts`" in anthropic["error"]["message"]


def raw(live: Live, request: str) -> bytes:
    host, _, port = live.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(request.replace("\n", "\r\n").encode("latin-1"))
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer.split(b"\r\n", 1)[0]


@pytest.mark.parametrize(
    ("request_", "refused"),
    [
        ("GET /v1/models HTTP/1.0\n\n", True),
        ("GET /v1/models HTTP/1.0\nHost: localhost\n\n", False),
        ("GET /v1/models HTTP/1.1\nHost: evil.example\nHost: localhost\nConnection: close\n\n", True),
        ("GET /v1/models HTTP/1.1\nHost: evil.example@localhost\nConnection: close\n\n", True),
        ("GET /v1/models HTTP/1.1\nHost: evil.example\nX-Forwarded-Host: localhost\nConnection: close\n\n", True),
        ("GET /v1/models HTTP/1.1\nHost: evil.example\nForwarded: host=localhost\nConnection: close\n\n", True),
        ("GET http://localhost/v1/models HTTP/1.1\nHost: evil.example\nConnection: close\n\n", True),
        ("GET /v1/models HTTP/1.1\nHost: LocalHost.:1\nConnection: close\n\n", False),
    ],
)
def test_odd_requests_are_judged_by_their_host_header(live: Live, request_: str, refused: bool) -> None:
    status = raw(live, request_).split()[1]
    assert status in ((b"403", b"400") if refused else (b"200",))


def test_a_form_or_plain_text_is_never_taken_for_json(live: Live) -> None:
    body = b'{"model": "policy", "messages": [{"role": "user", "content": "Hi"}]}'
    for path in (
        "/v1/chat/completions",
        "/v1/policies/rollback",
        "/v1/keys",
        "/v1/runs/x/cancel",
        "/agentgym/x/create",
    ):
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", None):
            headers = {} if kind is None else {"content-type": kind}
            answer = live.http.post(path, content=body, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_media_type"), (path, kind)
        if path != "/v1/chat/completions":
            form = live.http.post(path, headers={"content-type": "application/x-www-form-urlencoded"})
            assert form.json()["error"]["code"] == "unsupported_media_type"
    for kind in ("application/json", "Application/JSON; charset=utf-8"):
        assert live.http.post("/v1/chat/completions", content=body, headers={"content-type": kind}).status_code == 200
    assert live.http.post("/v1/audio/transcriptions", content=b"x").status_code == 404


def preflight(live: Live, origin: str) -> Any:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization, x-stainless-os"}
    return live.http.options("/v1/chat/completions", headers={"origin": origin, **asked})


def test_a_page_of_an_allowed_origin_may_chat_and_read_the_answers_headers(live: Live) -> None:
    asked = preflight(live, PAGE)
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, PAGE)
    assert "x-stainless-os" in asked.headers["access-control-allow-headers"]
    assert "DELETE" in asked.headers["access-control-allow-methods"]
    for stream in (False, True):
        answer = live.http.post("/v1/chat/completions", json={**CHAT, "stream": stream}, headers={"origin": PAGE})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, PAGE)
        assert answer.headers["access-control-expose-headers"] == "*"
    wrong = live.http.get("/v1/models/nothing", headers={"origin": PAGE})
    assert (wrong.status_code, wrong.headers["access-control-allow-origin"]) == (404, PAGE)
    assert preflight(live, EVIL).status_code == 403


def test_a_websocket_opens_for_an_allowed_origin_only(live: Live) -> None:
    url = f"{live.url.replace('http', 'ws', 1)}/openenv/textcraft/ws"
    for origin in (PAGE, live.url, None):
        with websockets.connect(url, origin=origin):  # type: ignore[arg-type]
            pass
    for origin in (EVIL, "null", "http://localhost:3001"):
        with pytest.raises(InvalidStatus) as refused, websockets.connect(url, origin=origin):  # type: ignore[arg-type]
            pass
        assert refused.value.response.status_code == 403
        assert b"allowed_origins" in (refused.value.response.body or b"")


def test_with_keys_a_page_with_a_key_is_answered_and_may_not_read_the_answer(tmp_path: Path) -> None:
    model = script(tmp_path / "script", "Hello there.")
    with serving(settings_for(tmp_path / "data", model=str(model), keys="required")) as live:
        anyone = live.http.get("/v1/models", headers={"origin": EVIL, "host": "any.example"})
        assert anyone.status_code == 401
        assert preflight(live, EVIL).status_code == 403
        assert "access-control-allow-origin" not in anyone.headers


def test_every_route_takes_json_only(live: Live) -> None:
    for route in live.app.routes:
        if isinstance(route, APIRoute):
            assert json_only.dependency in [inner.call for inner in route.dependant.dependencies], route.path
