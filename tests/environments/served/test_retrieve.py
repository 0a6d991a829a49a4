"""Search-R1's retrieval protocol: the server's `/retrieve`, and remote retrieval servers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from env_adapters.protocol import EnvironmentFailure
from env_adapters.search.spec import make_spec
from tests.support.live import Live

TASK = "2/former-northern-rhodesia/capital"


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A directory for indexes other than the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def ask(live: Live, path: str = "/retrieve", **body: Any) -> Any:
    answer = live.http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["result"]


def test_one_or_several_queries_are_answered_in_order(live: Live) -> None:
    one = ask(live, query="Zambia capital", topk=2, return_scores=True)
    assert [len(passages) for passages in one] == [2]
    assert one[0][0]["document"]["contents"].startswith('"Zambia: Capital"\nname: Lusaka')
    assert one[0][0]["score"] >= one[0][1]["score"] > 0
    several = ask(live, queries=["Zambia capital", "Benin capital", "of the"], return_scores=True)
    assert [len(passages) for passages in several] == [3, 3, 0]
    assert several[0][:2] == one[0]
    assert ask(live, query=["Zambia capital"], topk=2) == [[passage["document"] for passage in one[0]]]
    assert ask(live, queries=[]) == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"query": "a", "queries": ["a"]},
        {"query": 3},
        {"queries": "a"},
        {"queries": [1]},
        {"query": "a", "topk": 0},
        {"query": "a", "topk": 101},
        {"query": "a", "topk": "3"},
        {"query": "a", "k": 3},
        {"query": "a" * 10_001},
        {"queries": ["a"] * 513},
        {"query": "a", "return_scores": 1},
    ],
)
def test_a_malformed_request_is_refused(live: Live, body: dict[str, Any]) -> None:
    answer = live.http.post("/retrieve", json=body)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


def test_only_environments_with_passages_can_be_queried(live: Live) -> None:
    for name, status in (("nowhere", 404), ("textcraft", 400), ("search", 200)):
        assert live.http.post(f"/retrieve?environment={name}", json={"query": "a"}).status_code == status


def test_search_can_be_played_over_a_retrieval_server(live: Live) -> None:
    env = make_spec(f"{live.url}/retrieve", name="elsewhere").make()
    env.reset(TASK, 0)
    here = make_spec().make()
    here.reset(TASK, 0)
    steps = []
    while not (steps and steps[-1].terminated):
        assert len(steps) < 4
        action = env.oracle()
        steps.append(env.step(action))
        assert steps[-1] == here.step(action)
    assert steps[-1].success is True


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """A retrieval server with a constant response."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/retrieve"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (500, {}),
        (200, {}),
        (200, []),
        (200, {"result": []}),
        (200, {"result": [[], []]}),
        (200, {"result": [[1]]}),
        (200, {"result": [[{"document": {"contents": 1}, "score": 1}]]}),
        (200, {"result": [[{"document": "a"}]]}),
        (200, {"result": [{}]}),
        (200, {"result": None}),
        (200, {"result": [[{"document": {"contents": "a"}, "score": "b"}]]}),
    ],
)
def test_a_broken_retrieval_server_is_a_failure_and_not_an_observation(
    tmp_path: Path, status: int, answer: Any
) -> None:
    (tmp_path / "own.jsonl").write_text('{"question": "Who?", "golden_answers": ["nobody"]}')
    with answering(status, json.dumps(answer).encode()) as url:
        env = make_spec(f"{url},{tmp_path / 'own.jsonl'}").make()
        env.reset("line-1", 0)
        with pytest.raises(EnvironmentFailure, match=r"127\.0\.0\.1"):
            env.step("<search>anything</search>")


def test_an_unreachable_retrieval_server_is_a_failure() -> None:
    with answering(200, b"") as url:
        env = make_spec(url).make()
    env.reset(TASK, 0)
    with pytest.raises(EnvironmentFailure, match="ConnectError"):
        env.step("<search>anything</search>")
    for wrong in ("http:///retrieve", "https://"):
        with pytest.raises(ValueError, match="URL"):
            make_spec(wrong)
