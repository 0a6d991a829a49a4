"""`/readyz` is 200 exactly while requests can be answered and recorded, and says what is wrong otherwise."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from server.training.settings import LearnerSettings
from tests.e2e.recording.test_database_faults import filled, no_larger_files, small_disk
from tests.support.database import locked
from tests.support.live import Live, script, serving, settings_for, until
from tests.support.process import process
from tests.support.runs.scripted import ASK


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server whose database waits for a lock only briefly."""
    home = tmp_path_factory.mktemp("readiness")
    url = f"sqlite:///{home / 'data' / 'upturn.db'}?timeout=0.2"
    with serving(settings_for(home / "data", model=str(script(home / "script", "Hi")), database_url=url)) as live:
        yield live


def ready(url: str) -> tuple[int, dict[str, Any]]:
    answer = httpx2.get(f"{url}/readyz", timeout=30)
    return answer.status_code, answer.json()


def test_a_ready_server_names_every_part_and_the_share_of_untrainable_turns(quick: Live) -> None:
    api = quick.openai()
    for temperature in (0.0, 1.0, 1.0, 0.0):
        api.chat.completions.create(model="policy", messages=ASK, temperature=temperature)
    code, view = ready(quick.url)
    assert (code, view["status"], view["summary"]) == (200, "ready", "ready")
    assert {name: part["ok"] for name, part in view["parts"].items()} == dict.fromkeys(
        ("database", "disk", "engine", "learner", "template"), True
    )
    assert view["turns"] == {
        "recent": 4,
        "untrainable": 2,
        "share": 0.5,
        "reasons": {"greedy": 2},
        "summary": "50% of the last 4 turns are untrainable because: 2 greedy (temperature 0)",
    }
    assert str(quick.parts.settings.data_dir) not in str(view), "the route needs no key"


def test_a_database_that_cannot_be_written_is_reported_until_it_can(quick: Live) -> None:
    check = quick.parts.writer
    with locked(quick.parts.settings.data_dir):
        check.succeeded_at -= 100  # A probe is due.
        until(lambda: ready(quick.url)[0] == 503, "the lock was not noticed")
        _, view = ready(quick.url)
        assert view["error"]["code"] == "database_unavailable" and "writes fail" in view["summary"]
        assert httpx2.get(f"{quick.url}/readyz").headers["retry-after"]
        assert view["parts"]["engine"]["ok"] and not view["parts"]["database"]["ok"]
    until(lambda: ready(quick.url)[0] == 200, "the database was not asked again")


def test_a_dead_engine_and_a_nearly_full_disk_are_reported(tmp_path: Path) -> None:
    model = str(script(tmp_path / "script", "Hi"))
    with serving(settings_for(tmp_path / "data", model=model, min_free_bytes=2**60)) as live:
        code, view = ready(live.url)
        assert (code, view["error"]["code"]) == (503, "disk_full")
        assert view["parts"]["disk"]["figures"]["free_bytes"] < view["parts"]["disk"]["figures"]["min_free_bytes"]
        live.parts.engine._running = False  # type: ignore[attr-defined]
        code, view = ready(live.url)
        assert not view["parts"]["engine"]["ok"] and "engine" in view["summary"] and "disk" in view["summary"]


@pytest.mark.parametrize("kind", ["no space left", "no larger files"])
def test_a_full_disk_is_reported_although_no_one_writes(tmp_path: Path, kind: str) -> None:
    model, flags = script(tmp_path / "script", "Hi"), ("--engine.kind", "scripted", "--min-free-bytes", "8192")
    if kind == "no space left":
        with small_disk(tmp_path / "disk") as disk, process(disk / "data", model, *flags) as (server, url):
            with filled(disk):
                until(lambda: ready(url)[0] == 503, "the full disk was not noticed")
            until(lambda: ready(url)[0] == 200, "the free disk was not noticed")
            server.send_signal(signal.SIGINT)
            server.wait(60)
        return
    with process(tmp_path / "data", model, *flags) as (server, url):
        with no_larger_files(server.pid, tmp_path / "data"):
            long = [{"role": "user", "content": "x" * 1500}]
            for _ in range(200):  # Until the write-ahead log has to grow.
                httpx2.post(f"{url}/v1/chat/completions", json={"model": "policy", "messages": long}, timeout=60)
                if (code := ready(url)[0]) == 503:
                    break
            assert code == 503
        until(lambda: ready(url)[0] == 200, "the database was not asked again")


def test_a_learner_that_crashes_is_reported_and_serving_goes_on(tmp_path: Path) -> None:
    learner = LearnerSettings(restarts=0, arguments=["--no-such-argument"])
    model = str(script(tmp_path / "script", "Hi"))
    with serving(settings_for(tmp_path / "data", model=model, learner=learner)) as live:
        assert ready(live.url)[1]["parts"]["learner"]["state"] == "waiting"
        live.http.post("/v1/runs", json={"config": {"steps": 1}}).raise_for_status()
        until(lambda: ready(live.url)[1]["parts"]["learner"]["state"] == "crashed", "the crash was not reported")
        code, view = ready(live.url)
        assert (code, view["parts"]["learner"]["figures"]["deaths"]) == (200, 1) and "learner" in view["summary"]


def test_a_part_that_hangs_neither_blocks_the_answer_nor_is_asked_twice(
    quick: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.readiness.LIMIT_S", 0.1)
    import asyncio

    from server.api.services import provider
    from server.readiness import Part, Readiness

    asked, readiness = [], provider(Readiness).of(quick.app)

    async def hang() -> Part:
        asked.append(1)
        await asyncio.sleep(3600)
        return Part(True, "ok")

    readiness.add("hanging", hang)
    try:
        for _ in range(3):
            code, view = ready(quick.url)
            assert code == 503 and view["parts"]["hanging"]["state"] == "no answer"
        assert len(asked) == 1
    finally:
        del readiness._checks["hanging"]
        quick.loop.call_soon_threadsafe(readiness._asked.pop("hanging").cancel)
