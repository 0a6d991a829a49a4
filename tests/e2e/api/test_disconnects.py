"""Clients that leave: sampling stops, the record keeps what they were shown, and a retry or a continuation finds it."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from server.recording.turn import RETRY_GRACE_S
from tests.support.dialects import BODIES, MESSAGES, RESPONSES
from tests.support.live import Live, script, serving, settings_for, until

CHAT = "/v1/chat/completions"
ASK = [{"role": "user", "content": "Hi"}]
ASKED: dict[str, dict[str, Any]] = {**BODIES, CHAT: {"model": "policy", "messages": ASK}}
TEXT = "Grüße, 世界 😀 und weiter. " * 100
TOKENS = len(TEXT.encode())


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server that answers byte by byte, so that most tokens end inside of a character."""
    directory = tmp_path_factory.mktemp("slow")
    model = script(directory / "script", TEXT, delay_s=0.01)
    with serving(settings_for(directory / "data", model=str(model))) as live:
        yield live


@pytest.fixture
def patient(slow: Live, monkeypatch: pytest.MonkeyPatch) -> Live:
    """The server; it waits long for a retry."""
    monkeypatch.setattr("server.api.dialects.answering.RETRY_GRACE_S", 60.0)
    return slow


def send(live: Live, path: str, body: dict[str, Any], buffer: int = 0, **headers: str) -> socket.socket:
    """Send a request over a connection of its own, which receives at most `buffer` bytes ahead."""
    address, content = urlsplit(live.url), json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        "host: localhost",
        "content-type: application/json",
        f"content-length: {len(content)}",
    ]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    connection = socket.socket()
    connection.settimeout(60)
    if buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    connection.connect((address.hostname, address.port))
    connection.sendall("\r\n".join([*lines, "", ""]).encode() + content)
    return connection


def episode_of(live: Live) -> str:
    return str(live.http.post("/v1/episodes", json={}).json()["id"])


def sampling(live: Live, count: int = 1) -> None:
    until(lambda: live.parts.turns.busy == count)


def recorded(live: Live, episode: str, count: int = 1) -> list[Any]:
    """Wait until `count` turns of an episode are recorded; return them."""
    until(lambda: len(live.client.episode(episode).turns) == count)
    return live.client.episode(episode).turns


@pytest.mark.parametrize("way", ["close", "half-close", "reset"])
@pytest.mark.parametrize("path", ASKED)
def test_a_client_that_leaves_a_whole_answer_stops_it_in_every_dialect(
    slow: Live, monkeypatch: pytest.MonkeyPatch, path: str, way: str
) -> None:
    monkeypatch.setattr("server.api.dialects.answering.RETRY_GRACE_S", 0.2)
    episode = episode_of(slow)
    connection = send(slow, f"/episodes/{episode}{path}", ASKED[path])
    sampling(slow)
    if way == "half-close":
        connection.shutdown(socket.SHUT_WR)
    elif way == "reset":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    if way != "half-close":
        connection.close()
    (turn,) = recorded(slow, episode)
    connection.close()
    assert (turn.untrainable_reason, turn.finish_reason) == ("disconnected", "abort")
    assert 0 < turn.completion_tokens < TOKENS
    sampling(slow, 0)


def test_all_answers_of_a_request_stop(slow: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.api.dialects.answering.RETRY_GRACE_S", 0.0)
    episode = episode_of(slow)
    connection = send(slow, f"/episodes/{episode}{CHAT}", {**ASKED[CHAT], "n": 3})
    sampling(slow, 3)
    connection.close()
    assert {turn.untrainable_reason for turn in recorded(slow, episode, 3)} == {"disconnected"}


@pytest.mark.parametrize("path", ASKED)
def test_a_retry_within_the_grace_joins_the_answer_which_stays_trainable(patient: Live, path: str) -> None:
    episode = episode_of(patient)
    body = {**ASKED[path], ("max_output_tokens" if path == RESPONSES else "max_tokens"): 100}
    send(patient, f"/episodes/{episode}{path}", body).close()
    sampling(patient)
    answer = patient.http.post(f"/episodes/{episode}{path}", json=body, headers={"x-stainless-retry-count": "1"})
    assert answer.status_code == 200
    (turn,) = recorded(patient, episode)
    assert answer.headers["x-turn-id"] == turn.id
    assert turn.untrainable_reason is None and turn.completion_tokens == 100


def test_an_answer_that_ends_within_the_grace_is_trainable_only_if_a_retry_fetches_it(
    patient: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {**ASKED[CHAT], "max_tokens": 3}
    fetched = episode_of(patient)
    send(patient, f"/episodes/{fetched}{CHAT}", body, idempotency_key="fetched").close()
    until(lambda: [plan.readers.count for plan in patient.parts.turns._running.values()] == [0])
    answer = patient.http.post(f"/episodes/{fetched}{CHAT}", json=body, headers={"idempotency-key": "fetched"})
    assert answer.status_code == 200
    assert recorded(patient, fetched)[0].untrainable_reason is None
    monkeypatch.setattr("server.api.dialects.answering.RETRY_GRACE_S", 0.2)
    left = episode_of(patient)
    send(patient, f"/episodes/{left}{CHAT}", body).close()
    assert recorded(patient, left)[0].untrainable_reason == "disconnected"


def read_stream(live: Live, path: str, body: dict[str, Any], characters: int) -> tuple[str, str]:
    """Read a stream up to a number of characters and leave; return its episode and the text."""
    text = ""
    with live.http.stream("POST", path, json={**body, "stream": True}) as answer:
        episode = answer.headers["x-episode-id"]
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                text += text_of(json.loads(line[6:]))
            if len(text) >= characters:
                break
    return episode, text


def text_of(chunk: dict[str, Any]) -> str:
    """Return the text in one event of any dialect."""
    if chunk.get("type") == "content_block_delta":
        return str(chunk["delta"]["text"])
    if chunk.get("type") == "response.output_text.delta":
        return str(chunk["delta"])
    if "choices" not in chunk:
        return ""
    return str(chunk["choices"][0].get("text") or chunk["choices"][0].get("delta", {}).get("content") or "")


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
def test_a_conversation_that_goes_on_from_a_part_of_an_answer_stays_in_its_episode(slow: Live, path: str) -> None:
    talk = [{"role": "user", "content": f"Hi {path} {time.time()}"}]
    asks = "input" if path == RESPONSES else "messages"
    episode, text = read_stream(slow, path, {**ASKED[path], asks: talk}, 20)
    (turn,) = recorded(slow, episode)
    said = turn.answer["content"]
    assert said.startswith(text) and TEXT.startswith(said)
    assert bytes(turn.token_ids[-turn.completion_tokens :]).decode() == said, "the tokens are those of the text"
    talk += [{"role": "assistant", "content": text}, {"role": "user", "content": "Go on."}]
    limit = "max_output_tokens" if path == RESPONSES else "max_tokens"
    again = slow.http.post(path, json={**ASKED[path], asks: talk, limit: 3})
    assert again.headers["x-episode-id"] == episode


def test_a_part_shorter_than_what_was_sent_is_recognized_and_another_text_or_key_is_not(slow: Live) -> None:
    talk = [{"role": "user", "content": "Begin."}]
    episode, text = read_stream(slow, CHAT, {"model": "policy", "messages": talk}, 20)
    recorded(slow, episode)

    def goes_on(said: Any, key: str = "") -> str:
        asked = [*talk, {"role": "assistant", "content": said}, {"role": "user", "content": "Go on."}]
        body = {"model": "policy", "messages": asked, "max_tokens": 3}
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return slow.http.post(CHAT, json=body, headers=headers).headers["x-episode-id"]

    assert goes_on(text[:7]) == episode
    assert goes_on([{"type": "text", "text": text[:9]}]) == episode
    assert goes_on("Something else") != episode
    assert goes_on(text[:5], "sk-other") != episode


def test_the_grace_covers_the_first_retries_of_the_sdks() -> None:
    assert RETRY_GRACE_S > 2.0
