"""Adding a dialect takes one module and one line in the registry: its routes, streams and errors work."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.api.dialects import registry
from tests.support.keys import new_key
from tests.support.live import Live, script, serving, settings_for

MODULE = """
from fastapi.responses import JSONResponse, Response

from server.api.access.errors import ErrorForm
from server.api.dialects.call import CallOf
from server.api.dialects.chat_request import ChatRequest
from server.api.dialects.conversation import ConversationsOf
from server.api.dialects.dialect import Dialect
from server.api.dialects.streams import event, merged, sse
from server.api.dialects.translation import Lenient, checked
from server.errors import UpturnError

dialect = Dialect("line", ErrorForm(lambda error: {"oops": error.message}, {"type": "object"}))


class LineRequest(Lenient):
    model: str
    line: str
    stream: bool = False


@dialect.post("/v1/line", may_stream=True)
async def line(body: LineRequest, conversations: ConversationsOf, call: CallOf) -> Response:
    chat = {"model": body.model, "stream": body.stream, "messages": [{"role": "user", "content": body.line}]}
    conversation = await conversations.begin(call, checked(ChatRequest, chat))
    if body.stream:
        return sse(conversation, stream(conversation, await merged(conversation)))
    (answer,) = await conversation.answers()
    return JSONResponse({"line": answer.text}, headers=conversation.headers)


async def stream(conversation, pieces):
    try:
        async for _, delta in pieces:
            yield event({"piece": delta.content})
        await conversation.answers()  # Recorded before the last event is sent.
        yield event({"end": True})
    except UpturnError as error:
        yield event(dialect.errors.body(error))
"""
"""The example in CONTRIBUTING.md: a dialect in which one line asks and one line answers."""
PATH, BODY = "/v1/line", {"model": "policy", "line": "Hi"}


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Live]:
    """A server with the new dialect, which requires keys and takes small bodies only."""
    (tmp_path / "dialects").mkdir()
    (tmp_path / "dialects" / "line_dialect.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path / "dialects")
    monkeypatch.setattr(registry, "MODULES", (*registry.MODULES, "line_dialect"))
    model = script(tmp_path / "script", "Hello there.")
    settings = settings_for(tmp_path / "data", model=str(model), keys="required", max_body_bytes=2000)
    with serving(settings) as live:
        live.http.headers["authorization"] = f"Bearer {new_key(live, 'agent').key}"
        yield live
    del sys.modules["line_dialect"]


def test_a_new_dialect_answers_whole_and_records_its_turn(added: Live) -> None:
    answer = added.http.post(PATH, json=BODY)
    assert answer.json() == {"line": "Hello there."}
    transcript = added.http.get(f"/v1/episodes/{answer.headers['x-episode-id']}").json()
    assert [turn["messages"][0]["content"] for turn in transcript["turns"]] == ["Hi"]
    opened = added.http.post("/v1/episodes", json={}).json()
    under = added.http.post(f"/episodes/{opened['id']}{PATH}", json=BODY)
    assert under.headers["x-episode-id"] == opened["id"]


def test_a_new_dialect_streams(added: Live) -> None:
    answer = added.http.post(PATH, json={**BODY, "stream": True})
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line]
    assert "".join(event.get("piece", "") for event in events) == "Hello there."
    assert events[-1] == {"end": True}
    assert len(added.http.get(f"/v1/episodes/{answer.headers['x-episode-id']}").json()["turns"]) == 1


def test_every_error_on_the_paths_of_a_new_dialect_has_its_form(added: Live) -> None:
    for path, invalid in ((PATH, 400), (f"/episodes/ep_none{PATH}", 404)):
        wrong = [
            added.http.post(path, json=BODY, headers={"authorization": "Bearer up-wrong"}),
            added.http.post(path, json={**BODY, "line": "x" * 3000}),
            added.http.post(path, content=(b"x" * 1000 for _ in range(3))),
            added.http.post(path, json={}),
            added.http.post(path, content=b"{", headers={"content-type": "application/json"}),
            added.http.get(path),
        ]
        assert [answer.status_code for answer in wrong] == [401, 413, 413, invalid, 400, 405]
        assert all(set(answer.json()) == {"oops"} for answer in wrong)
    missing = added.http.post(PATH, json={**BODY, "model": "other"})
    assert missing.status_code == 404 and "other" in missing.json()["oops"]
    assert "error" in added.http.post("/v1/chat/completions", json={}).json(), "other dialects keep their form"


def test_the_schema_documents_a_new_dialect_and_its_errors(added: Live) -> None:
    paths = added.app.openapi()["paths"]
    for path in (PATH, f"/episodes/{{episode_id}}{PATH}"):
        operation = paths[path]["post"]
        assert operation["tags"] == ["line"]
        assert operation["responses"]["default"]["content"]["application/json"]["schema"] == {"type": "object"}
