"""What a client reads of an answer equals what vLLM's own chat route says of the same token ids.

vLLM's route runs in this process without an engine: it shows the tokens that the scripted engine sampled and recorded.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from server.api.dialects.answers.logprobs import ChatLogprobs
from server.engines.settings import EngineSettings
from server.engines.vllm.command import BASE_MODEL
from server.rendering.tokenizer import FileTokenizer
from tests.support.dialects import PARIS, ROME, SCHEMA
from tests.support.live import Live, script, serving, settings_for
from tests.support.small_tokenizers import KINDS
from tests.support.tiny_model import make_tiny_model
from upturn.wire import EpisodeOpen, TurnView

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed", allow_module_level=True)

ANSWERS = {
    "text": "Hello there.",
    "characters": "naïve 日本 😀😃!",
    "call": PARIS,
    "text and calls": f"I look.\n{PARIS}\n{ROME}",
    "two stops": "one ab two abc three",
    "nothing": "",
    "call and text": f"{PARIS} And so on.",
}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("text", {}),
    "logprobs": ("text", {"logprobs": True}),
    "alternatives": ("characters", {"logprobs": True, "top_logprobs": 3}),
    "nothing said": ("nothing", {"logprobs": True, "top_logprobs": 1}),
    "cut off": ("text", {"max_tokens": 5, "logprobs": True}),
    "a stop string": ("text", {"stop": "the", "logprobs": True}),
    "the stop string that ends first": ("two stops", {"stop": ["abc", "b tw", "ab "]}),
    "stop strings of one end": ("two stops", {"stop": ["b", "ab"]}),
    "a stop string that is not said": ("text", {"stop": ["never"]}),
    "a stop string in a call": ("call", {"stop": "weath", "tools": [WEATHER]}),
    "a call": ("call", {"tools": [WEATHER], "logprobs": True, "top_logprobs": 2}),
    "text and calls": ("text and calls", {"tools": [WEATHER]}),
    "one call": ("text and calls", {"tools": [WEATHER], "parallel_tool_calls": False}),
    "a cut call": ("call", {"tools": [WEATHER], "max_tokens": 30}),
    "a call and a cut": ("text and calls", {"tools": [WEATHER], "max_tokens": 100}),
    "a call and text that is cut off": ("call and text", {"tools": [WEATHER], "max_tokens": 85}),
    "calls as text": ("call", {"tools": [WEATHER], "tool_choice": "none"}),
}

INCOMPLETE = {"a cut call", "a call and a cut", "a stop string in a call"}
"""Answers whose last call never ends: here it is text, vLLM drops it from a stream, or takes all calls for text."""

AFTERWARDS = {"a call and text that is cut off"}
"""Answers with text after a call, which vLLM drops."""


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("answers")
    model = script(folder / "script", *ANSWERS.values())
    with serving(settings_for(folder / "data", model=str(model))) as running:
        yield running


@pytest.fixture(scope="module")
def vllm() -> Any:
    with warnings.catch_warnings():  # The import takes seconds and warns.
        warnings.simplefilter("ignore")
        from tests.support.vllm_chat import VllmChat
        from tests.support.vllm_outputs import byte_tokenizer

        return VllmChat(byte_tokenizer())


def body_of(name: str) -> tuple[dict[str, Any], int]:
    """Return a request and the position of its answer in the script."""
    answer, more = REQUESTS[name]
    before = list(ANSWERS).index(answer)
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes."}] * before
    return {"model": "policy", "messages": [*said, {"role": "user", "content": "Go on."}], **more}, before


def asked(live: Live, path: str, body: dict[str, Any]) -> tuple[Any, TurnView]:
    """Return an answer, or the chunks of a stream, and its recorded turn."""
    opened = live.client.open_episode(EpisodeOpen())
    response = live.http.post(path, json=body, headers={"authorization": f"Bearer {opened.key}"})
    assert response.status_code == 200, response.text
    (turn,) = live.client.episode(opened.id).turns
    if not body.get("stream"):
        return response.json(), turn
    events = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: {")]
    return [json.loads(event) for event in events], turn


def sampled(turn: TurnView, body: dict[str, Any]) -> Any:
    """Return the recorded tokens of a turn as vLLM's engine would report them."""
    from tests.support.vllm_outputs import sampled

    return sampled(turn, body.get("top_logprobs", 0), body.get("max_tokens"))


def calls_of(calls: list[Any] | None) -> list[tuple[str, Any]]:
    return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls or []]


def listed(logprobs: Any) -> list[Any]:
    """Return the entries of `logprobs`, with values to a float32's precision, which the record has."""

    def entry(token: dict[str, Any]) -> tuple[Any, ...]:
        return (token["token"], pytest.approx(token["logprob"], abs=1e-5), token["bytes"])

    return [
        (entry(token), [entry(top) for top in token["top_logprobs"]]) for token in (logprobs or {}).get("content", [])
    ]


def collected(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what a client has read at the end of a stream."""
    whole: dict[str, Any] = {"content": "", "logprobs": [], "usage": None, "ends": []}
    calls: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        whole["usage"] = chunk.get("usage") or whole["usage"]
        for choice in chunk["choices"]:
            whole["content"] += choice["delta"].get("content") or ""
            whole["logprobs"] += listed(choice["logprobs"])
            if choice["finish_reason"]:
                whole["ends"].append((choice["finish_reason"], choice["stop_reason"]))
            for part in choice["delta"].get("tool_calls") or []:
                function = calls.setdefault(part["index"], {"function": {"name": "", "arguments": ""}})["function"]
                function["name"] += part["function"].get("name") or ""
                function["arguments"] += part["function"].get("arguments") or ""
    return {**whole, "calls": list(calls.values()), "content": whole["content"].strip()}


def same_usage(one: dict[str, Any], other: dict[str, Any]) -> bool:
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return [one[name] for name in names] == [other[name] for name in names]


@pytest.mark.parametrize("name", REQUESTS)
async def test_a_whole_answer_says_what_vllm_says(live: Live, vllm: Any, name: str) -> None:
    body, _ = body_of(name)
    ours, turn = asked(live, "/v1/chat/completions", body)
    theirs = await vllm.whole(body, turn.token_ids[: turn.prompt_tokens], sampled(turn, body))
    one, other = ours["choices"][0], theirs["choices"][0]
    if name in INCOMPLETE and one["message"].get("tool_calls"):
        return
    assert (one["finish_reason"], one["stop_reason"]) == (other["finish_reason"], other["stop_reason"])
    assert same_usage(ours["usage"], theirs["usage"])
    assert listed(one["logprobs"]) == listed(other["logprobs"]) and (one["logprobs"] is None) == (
        other["logprobs"] is None
    )
    if name not in AFTERWARDS:
        assert (one["message"]["content"] or "").strip() == (other["message"]["content"] or "").strip()
    assert calls_of(one["message"].get("tool_calls")) == calls_of(other["message"].get("tool_calls"))


@pytest.mark.parametrize("name", REQUESTS)
async def test_a_stream_says_what_vllm_says(live: Live, vllm: Any, name: str) -> None:
    body, _ = body_of(name)
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    chunks, turn = asked(live, "/v1/chat/completions", body)
    theirs = await vllm.stream(body, turn.token_ids[: turn.prompt_tokens], sampled(turn, body))
    one, other = collected(chunks), collected(theirs)
    assert one["ends"] == other["ends"] and len(one["ends"]) == 1
    assert one["logprobs"] == other["logprobs"]
    assert same_usage(one["usage"], other["usage"])
    if name not in INCOMPLETE | AFTERWARDS:
        assert one["content"] == other["content"]
    if name not in INCOMPLETE:
        assert calls_of(one["calls"]) == calls_of(other["calls"])


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_of_every_kind_of_tokenizer_have_the_texts_and_bytes_that_vllm_shows(
    vllm: Any, tmp_path: Path, kind: str
) -> None:
    tokenizer = KINDS[kind]()
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True, normalized=False)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    chosen, size = random.Random(0), tokenizer.get_vocab_size()
    said = tokenizer.encode("naïve 日本 😀😃", add_special_tokens=False).ids
    ids = [*said, *(chosen.randrange(size) for _ in range(300)), *said, size - 1]
    tops = [
        {token_id: -0.5, **dict.fromkeys({chosen.randrange(size) for _ in range(4)} - {token_id}, -1.0)}
        for token_id in ids
    ]
    ours = ChatLogprobs(FileTokenizer(tmp_path / "tokenizer.json"), 5)
    halves = [ours.of(ids[part], [-0.5] * len(ids[part]), tops[part]) for part in (slice(9), slice(9, None))]
    theirs = vllm.logprobs(PreTrainedTokenizerFast(tokenizer_object=tokenizer), ids, tops)
    assert [*listed(halves[0]), *listed(halves[1])] == listed(theirs)


async def test_logprobs_arrive_with_their_tokens(live: Live) -> None:
    body, _ = body_of("logprobs")
    chunks, _ = asked(live, "/v1/chat/completions", {**body, "stream": True})
    said = [choice for chunk in chunks for choice in chunk["choices"] if choice["delta"].get("content")]
    for choice in said:
        assert "".join(entry["token"] for entry in choice["logprobs"]["content"]) == choice["delta"]["content"]


@pytest.mark.vllm
def test_a_real_vllm_says_the_same_of_the_same_tokens(tmp_path: Path) -> None:
    engine = EngineSettings(kind="vllm", dtype="float32", context_tokens=1024, kv_cache_gib=0.3, max_concurrent=8)
    model = make_tiny_model(tmp_path / "model")
    with serving(settings_for(tmp_path / "data", model=str(model), engine=engine)) as live:
        control = live.parts.engine._http.control  # type: ignore[attr-defined]
        ask: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0, "max_tokens": 24}
        for more in ({}, {"logprobs": True, "top_logprobs": 3}, {"logprobs": True, "max_tokens": 1}):
            ours, _ = asked(live, "/v1/chat/completions", {"model": "policy", **ask, **more})
            body = {"model": BASE_MODEL, **ask, **more, "return_token_ids": True}
            asking = control("POST", "/v1/chat/completions", body)
            theirs = asyncio.run_coroutine_threadsafe(asking, live.loop).result()
            one, other = ours["choices"][0], theirs["choices"][0]
            assert (one["finish_reason"], one["stop_reason"]) == (other["finish_reason"], other["stop_reason"])
            assert listed(one["logprobs"]) == listed(other["logprobs"]) and same_usage(ours["usage"], theirs["usage"])
            # vLLM drops a character that is cut off.
            assert one["message"]["content"].rstrip("\ufffd") == other["message"]["content"].rstrip("\ufffd")
            chunks, _ = asked(live, "/v1/chat/completions", {"model": "policy", **ask, **more, "stream": True})
            assert collected(chunks)["logprobs"] == listed(other["logprobs"])
