"""Wrong keys cost others nothing: no thread each, no memory without bound, no right key locked out."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from sqlalchemy.orm import Session

from server.api.access import callers, failures
from server.recording.keys import create_key
from tests.support.keys import new_key
from tests.support.live import Live, until
from upturn.wire import KeyCreate

CALLERS = 20


def ask(live: Live, key: str) -> httpx2.Response:
    return httpx2.get(f"{live.url}/v1/models", headers={"authorization": f"Bearer {key}"}, timeout=60)


@pytest.fixture
def clock(guarded: Live) -> list[float]:
    """The clock of callers and failures, which stands still until a test advances it."""
    now = [1000.0]
    guarded.parts.callers._clock = guarded.parts.callers._failures._clock = lambda: now[0]
    return now


def test_many_wrong_keys_share_one_lookup_at_a_time_and_delay_no_known_key(
    guarded: Live, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = new_key(guarded, "agent").key
    assert ask(guarded, right).status_code == 200
    read, go, reads = guarded.parts.callers._read, threading.Event(), list[int]()

    def slow(lookups: Any) -> Any:
        reads.append(len(lookups))
        assert go.wait(60)
        return read(lookups)

    monkeypatch.setattr(guarded.parts.callers, "_read", slow)
    with ThreadPoolExecutor(CALLERS) as pool:
        wrong = [
            pool.submit(ask, guarded, f"{prefix}-{number}") for number in range(CALLERS // 2) for prefix in ("up", "ep")
        ]
        until(lambda: sum(reads) + len(guarded.parts.callers._waiting) == CALLERS)
        assert ask(guarded, right).status_code == 200
        assert len(reads) == 1
        go.set()
        assert {answer.result().status_code for answer in wrong} == {401}
    assert len(reads) == 2 and sum(reads) == CALLERS
    assert ask(guarded, "up-1").status_code == 401
    assert len(reads) == 2, "an invalid key is remembered for a moment"


def test_wrong_keys_fill_no_memory_and_displace_no_right_key(
    guarded: Live, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callers, "CACHED_KEYS", 3)
    monkeypatch.setattr(failures, "KEPT", 3)
    right = new_key(guarded, "agent").key
    assert ask(guarded, right).status_code == 200
    for number in range(5):
        assert ask(guarded, f"up-wrong-{number}").status_code == 401
    known = guarded.parts.callers
    assert len(known._wrong) == 3 and len(known._cache) == 1
    for number in range(5):
        known._failures.count(f"10.0.0.{number}")
    assert len(known._failures._buckets) == 3


def test_an_address_that_guesses_keys_is_told_when_to_retry_and_locks_out_nobody(
    guarded: Live, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "PER_MINUTE", 4)
    monkeypatch.setattr(callers, "GUESSER_WAITS_S", 0.0)
    for number in range(4):
        assert ask(guarded, f"up-wrong-{number}").status_code == 401
    refused = ask(guarded, "up-wrong-4")
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_invalid_keys")
    assert refused.headers["retry-after"] == "15"
    assert ask(guarded, new_key(guarded, "agent").key).status_code == 200
    clock[0] += 15
    assert ask(guarded, "up-wrong-5").status_code == 401


def test_a_key_counts_at_once_and_one_that_another_process_creates_after_a_second(
    guarded: Live, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = {"authorization": f"Bearer {new_key(guarded, 'admin').key}"}
    monkeypatch.setattr("server.recording.keys.new_key", lambda: "up-guessed")
    assert ask(guarded, "up-guessed").status_code == 401
    created = guarded.http.post("/v1/keys", json={"name": "guessed", "scopes": ["agent"]}, headers=admin)
    assert created.json()["key"] == "up-guessed"
    assert ask(guarded, "up-guessed").status_code == 200
    monkeypatch.setattr("server.recording.keys.new_key", lambda: "up-other")
    assert ask(guarded, "up-other").status_code == 401
    with Session(guarded.parts.database.writer) as session, session.begin():  # As `python -m server keys create` does.
        create_key(session, KeyCreate(name="other", scopes=["agent"]))
    clock[0] += callers.CACHED_S
    assert ask(guarded, "up-other").status_code == 200
