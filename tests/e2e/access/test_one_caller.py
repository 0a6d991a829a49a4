"""Large requests of one caller: refused before they are rendered, or computed while others are answered."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPResponse
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from server.api.access import body_limit, json_shape
from server.engines.settings import EngineSettings
from server.rendering.bytes_tokenizer import BytesTokenizer
from server.rendering.template import ChatTemplate
from tests.support.dialects import BODIES, COMPLETIONS, MESSAGES, RESPONSES
from tests.support.live import Live, script, serving, settings_for

CHAT = "/v1/chat/completions"
BODY = {"model": "policy", "messages": [{"role": "user", "content": "Hi"}]}
ASKED: dict[str, dict[str, Any]] = {**BODIES, CHAT: BODY}
CONTEXT = 200_000
LONG = "words" * (4 * CONTEXT)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    directory = tmp_path_factory.mktemp("one")
    engine = EngineSettings(kind="scripted", context_tokens=CONTEXT)
    model = script(directory / "script", "Hello there.")
    with serving(settings_for(directory / "data", model=str(model), engine=engine)) as live:
        yield live


@pytest.fixture
def live(server: Live, monkeypatch: pytest.MonkeyPatch) -> Live:
    """The server; rendering or tokenizing anything fails the test."""

    def never(*_: Any) -> Any:
        raise AssertionError("a request that must be refused was rendered")

    monkeypatch.setattr(ChatTemplate, "text", never)
    monkeypatch.setattr(BytesTokenizer, "encode", never)
    return server


def message_of(answer: httpx2.Response, path: str) -> str:
    """Return the message of an error, which must have the dialect's form."""
    body = answer.json()
    if path.startswith(MESSAGES):
        assert body["type"] == "error"
    else:
        assert set(body["error"]) == {"message", "type", "param", "code"}
    return str(body["error"]["message"])


def with_messages(path: str, content: Any, count: int = 1) -> dict[str, Any]:
    """Return a request with `count` messages."""
    talk = [{"role": "user", "content": content}] * count
    return {**ASKED[path], ("input" if path == RESPONSES else "messages"): talk}


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
def test_too_many_messages_are_refused_before_they_are_rendered(live: Live, path: str) -> None:
    answer = live.http.post(path, json=with_messages(path, "x", 10_001))
    assert answer.status_code == 400
    assert "at most 10000" in message_of(answer, path)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        *((path, with_messages(path, "x", 60_000)) for path in (CHAT, MESSAGES, RESPONSES)),
        *((path, with_messages(path, [{"type": "text", "text": "x"}] * 60_000)) for path in (CHAT, MESSAGES)),
        (CHAT, {**BODY, "tools": [{}] * 60_000}),
        (CHAT, {**BODY, "stop": ["x"] * 300_000}),
        (MESSAGES, {**BODIES[MESSAGES], "stop_sequences": ["x"] * 300_000}),
        (CHAT, {**BODY, "logit_bias": {str(number): 1 for number in range(300_000)}}),
        (CHAT, {**BODY, "unknown": [[]] * 60_000}),
        (COMPLETIONS, {**BODIES[COMPLETIONS], "prompt": [1] * 300_000}),
        (COMPLETIONS, {**BODIES[COMPLETIONS], "prompt": ["x"] * 300_000}),
        ("/v1/messages/count_tokens", with_messages(MESSAGES, "x", 60_000)),
        ("/v1/episodes", {"metadata": {str(number): 1 for number in range(300_000)}}),
        ("/v1/episodes/none/steps", {"tool_call": {"name": "x", "arguments": {"x": [[]] * 60_000}}}),
        ("/v1/episodes/none/rewards", [[]] * 60_000),
        ("/v1/plays", {"environment": "textcraft", "tasks": ["x"] * 300_000}),
        ("/v1/batches", [{}] * 60_000),
        ("/mcp/textcraft", {"method": "ping", "id": 1, "params": {"x": [[]] * 60_000}}),
        ("/agentgym/textcraft/step", {"id": 1, "action": "x", "more": [[]] * 60_000}),
        ("/retrieve", {"queries": ["x"] * 300_000}),
    ],
)
def test_a_body_with_too_many_values_is_refused_while_it_arrives(live: Live, path: str, body: Any) -> None:
    answer = live.http.post(path, json=body)
    assert answer.status_code == 413
    assert "too many values" in message_of(answer, path)


def test_a_chunked_body_is_counted_too_and_text_is_not(live: Live) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"model": "policy", "messages": ['
        for _ in range(30):
            yield b'{"role": "user", "content": ["[\\"{,"]},' * 1000

    assert live.http.post(CHAT, content=chunks(), headers={"content-type": "application/json"}).status_code == 413
    text = live.http.post(CHAT, json={**BODY, "model": "[,{" * 300_000})
    assert text.status_code == 404, "brackets and commas in text are no values"


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES, COMPLETIONS])
def test_a_deeply_nested_body_is_refused(live: Live, path: str) -> None:
    nested = '{"x": ' * 1000 + "1" + "}" * 1000
    answer = live.http.post(path, content=nested, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert f"more than {json_shape.MOST_LEVELS} levels" in message_of(answer, path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32-le"])
@pytest.mark.parametrize("path", ASKED)
def test_a_body_in_another_encoding_is_refused_since_its_values_cannot_be_counted(
    live: Live, path: str, encoding: str
) -> None:
    body = json.dumps({"y": "\u0122", "x": [[]] * 60_000, **ASKED[path]}, ensure_ascii=False).encode(encoding)
    answer = live.http.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert message_of(answer, path) == "the request body must be JSON in UTF-8"


def test_too_many_stop_strings_are_refused(live: Live) -> None:
    for path, body in ((CHAT, BODY), (COMPLETIONS, {**BODIES[COMPLETIONS], "prompt": [1]})):
        answer = live.http.post(path, json={**body, "stop": ["x"] * 65})
        assert answer.status_code == 400 and "at most 64" in message_of(answer, path)
    answer = live.http.post(MESSAGES, json={**BODIES[MESSAGES], "stop_sequences": ["x"] * 65})
    assert answer.status_code == 400 and "at most 64" in message_of(answer, MESSAGES)


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES, COMPLETIONS])
@pytest.mark.parametrize("named", [False, True])
def test_a_prompt_with_too_many_characters_is_refused_before_it_is_tokenized(
    live: Live, path: str, named: bool
) -> None:
    body = {**ASKED[path], "prompt": LONG} if path == COMPLETIONS else with_messages(path, LONG)
    under = f"/episodes/{live.http.post('/v1/episodes', json={}).json()['id']}" if named else ""
    answer = live.http.post(f"{under}{path}", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    least = -(-len(LONG) // (live.parts.renderer.tokenizer.longest or 1))
    assert f"{least} tokens" in message_of(answer, path)


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES, COMPLETIONS, "/v1/messages/count_tokens"])
def test_others_are_answered_while_a_large_prompt_is_rendered(
    server: Live, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    begun, go = threading.Event(), threading.Event()

    def wait(render: Callable[..., Any]) -> Callable[..., Any]:
        def waiting(*args: Any, **more: Any) -> Any:
            if any("many words" in str(arg) for arg in args):
                begun.set()
                assert go.wait(60)
            return render(*args, **more)

        return waiting

    monkeypatch.setattr(ChatTemplate, "text", wait(ChatTemplate.text))
    monkeypatch.setattr(BytesTokenizer, "encode", wait(BytesTokenizer.encode))
    text = "many words " * 5000
    body = (
        {**ASKED[path], "prompt": text}
        if path == COMPLETIONS
        else with_messages(path.replace("/count_tokens", ""), text)
    )
    with ThreadPoolExecutor(1) as pool:
        large = pool.submit(httpx2.post, f"{server.url}{path}", json=body, timeout=60)
        assert begun.wait(60)
        assert httpx2.get(f"{server.url}/healthz", timeout=60).status_code == 200
        assert httpx2.post(f"{server.url}{CHAT}", json=BODY, timeout=60).status_code == 200
        go.set()
        assert large.result().status_code == 200


def test_a_large_invalid_body_is_reported_like_a_small_one(server: Live) -> None:
    small = server.http.post(CHAT, json={**BODY, "temperature": "hot"})
    large = server.http.post(CHAT, json={**BODY, "temperature": "hot", "user": "x" * 100_000})
    assert small.status_code == large.status_code == 400
    assert small.json() == large.json()


def test_identical_large_requests_in_an_episode_share_one_answer(server: Live) -> None:
    episode = server.http.post("/v1/episodes", json={}).json()["id"]
    body = with_messages(CHAT, "many words " * 5000)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: server.http.post(f"/episodes/{episode}{CHAT}", json=body), range(4)))
    assert {answer.status_code for answer in answers} == {200}
    assert len(server.client.episode(episode).turns) == len({answer.headers["x-turn-id"] for answer in answers})


@pytest.mark.parametrize("metadata", [{str(number): 1 for number in range(65)}, {"x": "y" * 16_384}])
def test_an_episode_with_too_much_metadata_is_refused(live: Live, metadata: dict[str, Any]) -> None:
    assert live.http.post("/v1/episodes", json={"metadata": metadata}).status_code == 400


def test_a_body_that_does_not_arrive_is_given_up(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_limit, "SILENCE_S", 0.05)
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.sendall(
            f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\n".encode()
            + b"content-type: application/json\r\ncontent-length: 99\r\n\r\n{"
        )
        with HTTPResponse(connection) as answer:
            answer.begin()
            assert answer.status == 408
            assert json.load(answer)["error"]["code"] == "request_timeout"
