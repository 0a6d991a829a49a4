"""What the server's log lines say, and what they never contain."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.dialects import COMPLETIONS, MESSAGES, RESPONSES
from tests.support.live import script, until

ROOT = Path(__file__).parents[3]
MARKER = "zebra-7f3a91"
CHAT = "/v1/chat/completions"
SAY = [{"role": "user", "content": MARKER}]
REQUESTS: dict[str, dict[str, Any]] = {
    CHAT: {"model": "policy", "messages": SAY},
    MESSAGES: {"model": "policy", "max_tokens": 9, "messages": SAY},
    RESPONSES: {"model": "policy", "input": MARKER},
    COMPLETIONS: {"model": "policy", "prompt": MARKER, "max_tokens": 9},
}
KEY = f"sk-{MARKER}"


@dataclass
class Logging:
    """A server in a process of its own, and what it wrote."""

    http: httpx2.Client
    data: Path
    output: Path

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output.read_text().splitlines() if line.startswith("{")]

    def access(self, request_id: str) -> dict[str, Any]:
        """Return the line of one request, which is written just after its answer."""
        found: list[dict[str, Any]] = []

        def written() -> bool:
            found[:] = [
                line
                for line in self.lines()
                if line["logger"] == "upturn.access" and "status" in line and line["request_id"] == request_id
            ]
            return bool(found)

        until(written, f"no line for {request_id}")
        return found[0]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logging]:
    path = tmp_path_factory.mktemp("logs")
    output = path / "output"
    command = [sys.executable, "-m", "server", "serve", "--port", "0", "--data-dir", str(path / "data")]
    command += [
        "--engine.kind",
        "scripted",
        "--model",
        str(script(path / "script", f"{MARKER} too")),
        "--no-learner.start",
    ]
    command += ["--log-level", "debug", "--log-format", "json", "--environments.modules", "tests.support.noisy"]
    command += [
        "--environments.workers",
        "1",
        "--rewards.functions",
        json.dumps({"q": {"function": "tests.support.noisy:quoting"}}),
    ]
    with output.open("wb") as written, subprocess.Popen(command, cwd=ROOT, stdout=written, stderr=written) as process:
        try:
            until(lambda: "ready" in output.read_text() or process.poll() is not None, "the server did not start")
            url = output.read_text().split()[1]
            with httpx2.Client(base_url=url, timeout=60, headers={"authorization": f"Bearer {KEY}"}) as http:
                yield Logging(http, path / "data", output)
        finally:
            process.terminate()
            process.wait(30)


def test_a_request_has_one_line_with_its_route_and_the_callers_id(server: Logging) -> None:
    answer = server.http.post(f"{CHAT}?secret={MARKER}", json=REQUESTS[CHAT], headers={"x-request-id": "mine.1"})
    assert answer.status_code == 200 and answer.headers["x-request-id"] == "mine.1"
    line = server.access("mine.1")
    assert (line["method"], line["route"], line["status"], line["level"]) == ("POST", CHAT, 200, "info")
    assert line["key"] == "anonymous" and line["episode"] == answer.headers["x-episode-id"] and line["ms"] > 0
    shown = server.http.get(f"/v1/episodes/{line['episode']}", headers={"x-request-id": "mine.2"})
    assert shown.status_code == 200
    assert server.access("mine.2")["route"] == "/v1/episodes/{episode_id}"


@pytest.mark.parametrize("wrong", ["", "with space", "x" * 200, '{"a":1}', "a;b"])
def test_an_id_that_is_no_plain_token_is_replaced(server: Logging, wrong: str) -> None:
    made = server.http.get("/healthz", headers={"x-request-id": wrong}).headers["x-request-id"]
    assert made.startswith("req_") and server.access(made)["level"] == "debug"


def test_refused_and_failed_requests_have_a_line_and_an_id_too(server: Logging) -> None:
    missing = server.http.get(f"/{MARKER}")
    assert missing.status_code == 404 and server.access(missing.headers["x-request-id"])["status"] == 404
    broken = server.http.post(
        CHAT, json={"model": "policy", "messages": [{"role": "user", "content": "break the engine"}]}
    )
    assert broken.status_code == 500 and broken.headers["x-request-id"] in broken.json()["error"]["message"]
    assert server.access(broken.headers["x-request-id"])["status"] == 500
    (failed,) = (
        [
            line
            for line in server.lines()
            if line["request_id"] == broken.headers["x-request-id"] and line["level"] == "error"
        ]
        if broken.headers["x-request-id"]
        else []
    )
    assert "noisy.py" in failed["traceback"] and "ValueError" in failed["traceback"]


def test_anthropics_errors_name_the_request(server: Logging) -> None:
    answer = server.http.post(MESSAGES, json={"model": "nobody", "max_tokens": 1, "messages": SAY})
    assert answer.status_code == 404 and answer.json()["request_id"] == answer.headers["x-request-id"]


def test_no_line_contains_text_of_a_conversation_a_key_or_a_query(server: Logging) -> None:
    http = server.http
    for path, body in REQUESTS.items():
        assert http.post(path, json=body).status_code == 200
        assert http.post(path, json={**body, "stream": True}).status_code == 200
        broken = json.loads(json.dumps(body).replace(MARKER, f"{MARKER} break the engine"))
        assert http.post(path, json=broken).status_code >= 500
        with suppress(httpx2.TransportError):
            http.post(path, json={**broken, "stream": True})
        for wrong in (
            {"model": MARKER},
            {"max_tokens": MARKER},
            {"temperature": MARKER},
            {"tools": MARKER},
            {MARKER: 1},
        ):
            http.post(path, json={**body, **wrong}, params={"q": MARKER})
        http.post(path, content=f'{{"model": {MARKER}', headers={"content-type": "application/json"})
        http.post(path, json={**body, "metadata": {"a": MARKER, "b": 2**80}})
    for how in ("", "gently "):
        opened = http.post("/v1/episodes", json={"environment": "noisy", "task": "a"}).json()
        assert http.post(f"/v1/episodes/{opened['id']}/steps", json={"action": f"{how}{MARKER}"}).status_code == 503
    http.post("/v1/episodes", json={"environment": "noisy", "task": MARKER})
    talked = http.post(CHAT, json=REQUESTS[CHAT]).headers["x-episode-id"]
    http.post(f"/v1/episodes/{talked}/close", json={"reason": MARKER})
    http.post(f"/v1/episodes/{talked}/rewards", json={"value": 1, "source": MARKER, "key": MARKER, "reason": MARKER})
    until(lambda: f"failed on {talked}" in server.output.read_text(), "the scorer did not fail")
    with sqlite3.connect(server.data / "upturn.db") as database:
        database.execute("ALTER TABLE turn RENAME TO gone")  # Every turn's statement now fails with its parameters.
    for path, body in REQUESTS.items():
        assert http.post(path, json=body).status_code >= 500
    until(lambda: "no such table" in server.output.read_text(), "the database did not fail")

    files = [server.output, *(file for file in server.data.rglob("*.log*") if file.is_file())]
    assert len(files) >= 2, "the environment host has a log"
    for file in files:
        said = [line[:300] for line in file.read_text().splitlines() if MARKER in line]
        assert not said, file
