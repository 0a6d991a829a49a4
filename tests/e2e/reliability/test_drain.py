"""SIGTERM: calls in progress may finish, new ones are refused, and what is cut is recorded and says so."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.database import recorded
from tests.support.dialects import BODIES, MESSAGES, RESPONSES
from tests.support.live import script, until
from tests.support.process import process

CHAT = "/v1/chat/completions"
BODY = {"model": "policy", "messages": [{"role": "user", "content": "Hi"}]}
ASKED = {**BODIES, CHAT: BODY}
SCRIPTED = ("--engine.kind", "scripted")


def begun(api: httpx2.Client, count: int) -> None:
    """Wait until `count` answers are being sampled."""
    until(lambda: f"upturn_turns_in_progress {count}.0" in api.get("/metrics").text, seconds=30)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def test_a_call_in_progress_finishes_while_new_calls_are_refused(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    model = script(tmp_path / "script", "word " * 40, delay_s=0.03)
    with (
        process(tmp_path / "data", model, *SCRIPTED) as (server, url),
        httpx2.Client(base_url=url, timeout=60) as api,
        httpx2.Client(base_url=url, timeout=60) as idle,
    ):
        assert idle.get("/healthz").status_code == 200  # Its connection stays open, and holds nothing up.
        whole = pool.submit(httpx2.post, f"{url}{CHAT}", json=BODY, timeout=60)
        with httpx2.stream("POST", f"{url}{CHAT}", json={**BODY, "stream": True}, timeout=60) as stream:
            lines = stream.iter_lines()
            next(lines)
            begun(api, 2)
            server.send_signal(signal.SIGTERM)
            until(lambda: api.get("/readyz").status_code == 503)
            assert api.get("/readyz").json()["error"]["code"] == "draining"
            for connection in (api, idle):
                refused = connection.post(CHAT, json=BODY)
                assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
                assert int(refused.headers["retry-after"]) > 0
            assert api.get("/healthz").status_code == 200
            assert list(lines)[-2] == "data: [DONE]"
        assert whole.result().json()["choices"][0]["message"]["content"] == "word " * 40
        server.wait(timeout=30)
    turns = recorded(tmp_path / "data")
    assert len(turns) == 2 and all(turn["trainable"] for turn in turns)


@pytest.mark.parametrize("end", ["drain_s", "second signal"])
def test_a_call_that_is_cut_says_so_in_its_dialects_form_and_is_recorded(
    tmp_path: Path, pool: ThreadPoolExecutor, end: str
) -> None:
    model = script(tmp_path / "script", "word " * 4000, delay_s=0.02)
    flags = ("--drain-s", "0.2") if end == "drain_s" else ()
    streams: dict[str, list[str]] = {path: [] for path in ASKED}
    reading = threading.Semaphore(0)

    def read(path: str) -> None:
        body = {**ASKED[path], "stream": True, "user": "stream"}
        with httpx2.stream("POST", f"{url}{path}", json=body, timeout=60) as answer:
            for line in answer.iter_lines():
                streams[path].append(line)
                if len(streams[path]) == 20:
                    reading.release()

    with (
        process(tmp_path / "data", model, *SCRIPTED, *flags) as (server, url),
        httpx2.Client(base_url=url, timeout=60) as api,
    ):
        whole: dict[str, Future[Any]] = {
            path: pool.submit(httpx2.post, f"{url}{path}", json=body, timeout=60) for path, body in ASKED.items()
        }
        readers = [pool.submit(read, path) for path in ASKED]
        for _ in readers:
            reading.acquire()
        begun(api, 8)
        server.send_signal(signal.SIGTERM)
        if end == "second signal":
            until(lambda: api.get("/readyz").status_code == 503)
            server.send_signal(signal.SIGINT)
        for path, answer in whole.items():
            cut = answer.result()
            assert cut.status_code == 503, path
            assert cut.json()["error"]["code"] == "draining"
            assert int(cut.headers["retry-after"]) > 0
            assert (cut.json().get("type") == "error") == (path == MESSAGES)
        for reader in readers:
            reader.result()
        server.wait(timeout=30)
    for path, lines in streams.items():
        last = json.loads([line for line in lines if line.startswith("data: {")][-1][6:])
        if path == RESPONSES:
            assert last["type"] == "response.failed" and last["response"]["status"] == "failed"
        else:
            assert last["error"]["code"] == "draining", path
            assert "data: [DONE]" not in lines
    turns = recorded(tmp_path / "data")
    assert len(turns) == 8
    assert {turn["untrainable_reason"] for turn in turns} == {"disconnected"}
    assert all(turn["completion_tokens"] > 0 for turn in turns)
