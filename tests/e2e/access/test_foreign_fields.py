"""Fields of requests that are not the caller's to set, and metadata, which is bounded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server.api.dialects.fields.table import CHAT as CHAT_FIELDS
from server.engines.protocol import ENGINE_FIELDS, SamplingParams
from server.engines.vllm.sampling import _sampling
from tests.support.live import Live, script, serving, settings_for
from upturn.wire import EpisodeOpen

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
ASK = [{"role": "user", "content": "Hi"}]
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"model": "policy", "messages": ASK},
    COMPLETIONS: {"model": "policy", "prompt": "Hi"},
    "/v1/messages": {"model": "policy", "messages": ASK, "max_tokens": 16},
    "/v1/responses": {"model": "policy", "input": "Hi"},
}
HOSTILE = {
    "priority": -100,
    "cache_salt": "x",
    "structured_outputs": {"regex": "(a+)+$"},
    "guided_regex": "(a+)+$",
    "kv_transfer_params": {"do_remote_decode": True},
    "vllm_xargs": {"x": 1},
    "logits_processors": ["os.system"],
    "truncate_prompt_tokens": 1,
    "mm_processor_kwargs": {"x": 1},
}
LARGE_METADATA = [
    {"a": "x" * 20_000},
    {"a": "\u20ac" * 6_000},
    {"a" * 20_000: ""},
    {str(number): "" for number in range(65)},
]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    home: Path = tmp_path_factory.mktemp("fields")
    model = script(home / "script", "Hello there.")
    with serving(settings_for(home / "data", model=str(model))) as started:
        yield started


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_fields_that_concern_the_engine_are_refused_by_name(live: Live, path: str, name: str) -> None:
    assert CHAT_FIELDS[name].use == "refused"
    refused = live.http.post(path, json={**BODIES[path], name: HOSTILE[name]})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unsupported_parameter")
    assert name in refused.json()["error"]["message"]
    for neutral in (None, False, 0, {}, [], ""):
        assert live.http.post(path, json={**BODIES[path], name: neutral}).status_code == 200


@pytest.mark.parametrize("path", BODIES)
def test_an_unknown_field_changes_nothing_and_is_named_in_a_header(live: Live, path: str) -> None:
    opened = live.client.open_episode(EpisodeOpen())
    headers = {"x-episode-id": opened.id}
    for more in ({}, {"stream": True}):
        answer = live.http.post(path, json={**BODIES[path], "something_new": 1, **more}, headers=headers)
        assert answer.headers["x-upturn-warning"] == "ignored unknown fields: something_new"
        assert "x-upturn-untrainable" not in answer.headers
    assert [turn.untrainable_reason for turn in live.client.episode(opened.id).turns] == [None, None]
    assert "x-upturn-warning" not in live.http.post(path, json=BODIES[path]).headers


def test_only_known_fields_reach_vllm() -> None:
    known = dict.fromkeys(ENGINE_FIELDS, 1)
    unknown = {**HOSTILE, "something_new": 1, "n": 7, "max_tokens": 10**9, "prompt_logprobs": 100, "detokenize": False}
    plain = _sampling(SamplingParams(100), 10)
    sent = _sampling(SamplingParams(100, extra={**known, **unknown}), 10)
    assert sent == {**plain, **known} and sent["max_tokens"] == 10 and sent["n"] == 1


@pytest.mark.parametrize("metadata", LARGE_METADATA)
@pytest.mark.parametrize("path", ["/v1/episodes", *BODIES])
def test_large_metadata_is_refused(live: Live, path: str, metadata: dict[str, str]) -> None:
    refused = live.http.post(path, json={**BODIES.get(path, {}), "metadata": metadata})
    assert refused.status_code == 400 and "metadata" in refused.text
    assert live.http.post(path, json={**BODIES.get(path, {}), "metadata": {"user_id": "7"}}).status_code < 300


@pytest.mark.parametrize(
    "text", ['{"a": NaN}', '{"a": [Infinity]}', '{"a": 1e999}', '{"a": "\\ud800"}', '{"\\ud800": 1}']
)
def test_metadata_that_json_cannot_express_is_refused(live: Live, text: str) -> None:
    body = f'{{"metadata": {text}}}'
    answer = live.http.post("/v1/episodes", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
@pytest.mark.parametrize(
    ("path", "field"),
    [
        (CHAT, '"messages": [{"role": "user", "content": "Hi", "weight": %s}]'),
        (CHAT, '"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi", "at": [%s]}]}]'),
        (CHAT, '"tools": [{"type": "function", "function": {"name": "f", "parameters": {"maximum": %s}}}]'),
        (CHAT, '"chat_template_kwargs": {"budget": %s}'),
        (CHAT, '"something_new": {"a": %s}'),
        (COMPLETIONS, '"something_new": %s'),
        ("/v1/messages", '"tools": [{"name": "f", "input_schema": {"maximum": %s}}]'),
    ],
)
def test_a_number_that_is_not_finite_is_refused_before_anything_is_sampled(
    live: Live, path: str, field: str, number: str
) -> None:
    body = json.dumps(BODIES[path])[:-1] + ", " + field % number + "}"
    refused = live.http.post(path, content=body, headers={"content-type": "application/json"})
    assert refused.status_code == 400, refused.text
    assert "finite" in refused.json()["error"]["message"] and "x-episode-id" not in refused.headers


@pytest.mark.parametrize("depth", [31, 32, 300, 900, 5_000, 100_000])
def test_deep_metadata_is_stored_or_refused_and_never_an_error_of_the_server(live: Live, depth: int) -> None:
    body = f'{{"metadata": {{"a": {"[" * depth}{"]" * depth}}}}}'
    for path, more in (("/v1/episodes", ""), (CHAT, json.dumps(BODIES[CHAT])[1:-1] + ", ")):
        sent = "{" + more + body[1:]
        answer = live.http.post(path, content=sent, headers={"content-type": "application/json"})
        assert answer.status_code in (200, 201, 400, 413), (path, answer.text)
        assert (answer.status_code >= 400) == (depth >= 32), path
        if path == "/v1/episodes" and answer.status_code == 201:
            assert live.http.get(f"/v1/episodes/{answer.json()['id']}").status_code == 200
