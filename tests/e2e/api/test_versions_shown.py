"""Which version an agent is told: in headers, chunks, the list of models and the episode's transcript."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest

from server.engines.protocol import Piece, Weights
from server.engines.scripted import ScriptedEngine
from tests.support.live import Live, script, serving, settings_for

ASK = [{"role": "user", "content": "Hi"}]
STREAMS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": ASK}),
    "two answers": ("/v1/chat/completions", {"messages": ASK, "n": 2}),
    "completions": ("/v1/completions", {"prompt": "Hi"}),
    "messages": ("/v1/messages", {"messages": ASK, "max_tokens": 50}),
    "responses": ("/v1/responses", {"input": "Hi"}),
}


class Swapping(ScriptedEngine):
    """Replaces its weights after a number of an answer's tokens."""

    swap_after: int | None = None
    next_weights: Weights

    async def generate(self, *request: Any, **more: Any) -> AsyncGenerator[Piece, None]:
        """Sample as the scripted engine does."""
        tokens = 0
        answer = super().generate(*request, **more)
        if self.swap_after == 0:  # The request has its version; its first token has not been sampled.
            await asyncio.sleep(0)
            await self.load(self.next_weights)
        async for piece in answer:
            tokens += 1
            if tokens == self.swap_after:
                self.swap_after = None
                await self.load(self.next_weights)
            yield piece


@pytest.fixture
def live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Live]:
    monkeypatch.setattr("server.engines.scripted.ScriptedEngine", Swapping)
    model = script(tmp_path / "script", "Hello there.")
    with serving(settings_for(tmp_path / "data", model=str(model))) as running:
        running.parts.engine.next_weights = Weights(1, "full", script(tmp_path / "next", "Hello there."))
        yield running


def named(data: dict[str, Any]) -> set[str]:
    """Return the model and the version that an event names."""
    model = data.get("model") or next((data[key]["model"] for key in ("message", "response") if key in data), None)
    return {model, data.get("system_fingerprint")} - {None}


@pytest.mark.parametrize("stream", STREAMS)
def test_a_stream_names_the_version_that_sampled_its_first_token(live: Live, stream: str) -> None:
    path, body = STREAMS[stream]
    live.parts.engine.swap_after = 0
    with live.http.stream("POST", path, json={"model": "policy", "stream": True, **body}) as response:
        assert response.status_code == 200
        assert response.headers["x-policy-version"] == "1"
        events = [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: {")]
    fingerprints = {"policy@1"} if "completions" in path else set()
    assert set().union(*map(named, events)) == {"policy"} | fingerprints


def test_a_stream_names_the_first_version_at_its_beginning_and_the_last_at_its_end(live: Live) -> None:
    live.parts.engine.swap_after = 5
    with live.openai().chat.completions.create(model="policy", messages=ASK, stream=True) as chunks:
        assert chunks.response.headers["x-policy-version"] == "0"
        episode = chunks.response.headers["x-episode-id"]
        models = [chunk.system_fingerprint for chunk in chunks]
    assert models[0] == "policy@0" and models[-1] == "policy@1"
    (turn,) = live.client.episode(episode).turns
    spans = [(span.version, span.first, span.tokens) for span in turn.policy_versions]
    assert spans == [(0, 0, 5), (1, 5, turn.completion_tokens - 5)]
    assert turn.policy_version == 1


def test_a_retried_stream_names_the_same_versions(live: Live) -> None:
    live.parts.engine.swap_after = 5
    seen = []
    for _ in range(2):
        body = {"model": "policy", "stream": True, "messages": ASK}
        response = live.http.post("/v1/chat/completions", json=body, headers={"idempotency-key": "a"})
        seen.append((response.headers["x-turn-id"], response.headers["x-policy-version"]))
    assert seen[0] == seen[1] and seen[0][1] == "0"


def test_models_state_their_context_and_when_they_were_made(live: Live) -> None:
    data = live.http.get("/v1/models").json()["data"]
    assert [model["id"] for model in data] == ["policy", "policy@champion", "policy@head", "policy@0"]
    for model in data:
        assert model["max_model_len"] == live.parts.engine.context_tokens == 4096
        assert time.time() - 600 < model["created"] <= time.time()
        assert live.http.get(f"/v1/models/{model['id']}").json() == model
    assert live.http.get("/v1/models/policy@7").status_code == 404
    assert live.openai().models.retrieve("policy@0").created == data[0]["created"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": ASK, "stop": ""}),
        ("/v1/chat/completions", {"messages": ASK, "stop": ["end", ""], "stream": True}),
        ("/v1/completions", {"prompt": "Hi", "stop": ""}),
        ("/v1/messages", {"messages": ASK, "max_tokens": 5, "stop_sequences": [""]}),
    ],
)
def test_an_empty_stop_string_is_refused_before_the_engine(live: Live, path: str, body: dict[str, Any]) -> None:
    response = live.http.post(path, json={"model": "policy", **body})
    assert response.status_code == 400
    assert "stop" in response.json()["error"]["message"]
    assert "x-episode-id" not in response.headers
