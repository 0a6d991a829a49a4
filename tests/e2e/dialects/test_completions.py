"""OpenAI's text completions over a real socket with the official client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest

from tests.support.dialects import PARIS
from tests.support.live import Live, script, serving, settings_for


@pytest.mark.parametrize("prompt", ["Once", list(b"Once")])
def test_a_completion_continues_exactly_its_prompt(live: Live, prompt: str | list[int]) -> None:
    raw = live.openai().completions.with_raw_response.create(model="policy", prompt=prompt, max_tokens=50, logprobs=2)
    (choice,) = (answer := raw.parse()).choices
    assert (choice.text, choice.finish_reason, answer.model) == ("Hello there.", "stop", "policy")
    (turn,) = live.client.episode(raw.headers["x-episode-id"]).turns
    assert turn.token_ids[: turn.prompt_tokens] == list(b"Once")
    assert turn.messages == [{"role": "prompt", "content": "Once"}]
    assert answer.id == f"cmpl-{turn.id}"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, turn.completion_tokens)
    assert choice.logprobs.token_logprobs == pytest.approx([x for x in turn.logprobs if x is not None])
    assert "".join(choice.logprobs.tokens) == "Hello there.<|im_end|>"
    for token, logprob, top in zip(
        choice.logprobs.tokens, choice.logprobs.token_logprobs, choice.logprobs.top_logprobs, strict=True
    ):
        among = sum(other > logprob for other in top.values()) < 2
        assert top[token] == logprob and len(top) == (2 if among else 3)  # The likeliest, and the token itself.
    assert {len(top) for top in choice.logprobs.top_logprobs} == {2, 3}
    assert turn.trainable


def test_a_completion_is_short_by_default(slow: Live) -> None:
    (choice,) = slow.openai().completions.create(model="policy", prompt="Once").choices
    assert (choice.text, choice.finish_reason) == (("word " * 4)[:16], "length")


@pytest.mark.parametrize("stream", [False, True])
def test_several_prompts_get_several_answers_each(live: Live, stream: bool) -> None:
    raw = live.openai().completions.with_raw_response.create(
        model="policy", prompt=["Once", "Once", "Twice"], n=2, max_tokens=50, seed=1, stream=stream
    )
    found: dict[int, str] = {}
    for part in raw.parse() if stream else [raw.parse()]:
        for choice in part.choices:
            found[choice.index] = found.get(choice.index, "") + choice.text
    assert found == dict.fromkeys(range(6), "Hello there.")
    turn_ids, episode_ids = raw.headers["x-turn-id"].split(","), raw.headers["x-episode-id"].split(",")
    turns = [turn for episode_id in episode_ids for turn in live.client.episode(episode_id).turns]
    assert [turn.id for turn in turns] == turn_ids
    assert [turn.messages[0]["content"] for turn in turns if turn.messages] == ["Once"] * 4 + ["Twice"] * 2


def test_a_completions_stream_has_the_logprobs_of_each_chunks_tokens(live: Live) -> None:
    asked: dict[str, Any] = {"model": "policy", "prompt": "Once", "max_tokens": 50, "logprobs": 2, "stop": "re"}
    whole = live.openai().completions.create(**asked).choices[0]
    chunks = [chunk.choices[0] for chunk in live.openai().completions.create(**asked, stream=True)]
    assert (whole.text, whole.finish_reason, whole.stop_reason) == ("Hello the", "stop", "re")
    assert chunks[-1].stop_reason == "re" and "".join(chunk.text for chunk in chunks) == whole.text
    for name in ("tokens", "token_logprobs", "text_offset", "top_logprobs"):
        joined = [entry for chunk in chunks if chunk.logprobs for entry in getattr(chunk.logprobs, name) or []]
        wanted = getattr(whole.logprobs, name)
        assert joined == (pytest.approx(wanted, abs=1e-5) if name == "token_logprobs" else wanted)
    assert len([chunk for chunk in chunks if chunk.logprobs and chunk.logprobs.tokens]) > 3


def test_a_completions_stream_reports_its_usage(live: Live) -> None:
    parts = list(
        live.openai().completions.create(
            model="policy", prompt="Once", max_tokens=50, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(choice.text for part in parts for choice in part.choices) == "Hello there."
    assert parts[-2].choices[0].finish_reason == "stop"
    assert parts[-1].usage.prompt_tokens == 4


def test_a_completion_shows_thoughts_and_calls_as_plain_text(tmp_path: Path) -> None:
    said = f"<think>Hm.</think> {PARIS}"
    with serving(settings_for(tmp_path / "data", model=str(script(tmp_path / "script", said)))) as live:
        live.parts.renderer.reasons = True
        (choice,) = live.openai().completions.create(model="policy", prompt="Once", max_tokens=500).choices
        assert choice.text == said


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"prompt": []}, "invalid_request"),
        ({"prompt": ""}, "invalid_request"),
        ({"prompt": ["a", ""]}, "invalid_request"),
        ({"prompt": [1, "a"]}, "invalid_request"),
        ({"prompt": [259]}, "invalid_request"),
        ({"prompt": [-1]}, "invalid_request"),
        ({"prompt": [[]]}, "invalid_request"),
        ({"prompt": ["a"] * 65, "n": 2}, "invalid_request"),
        ({"prompt": 7}, "invalid_request"),
        ({"max_tokens": 0}, "invalid_request"),
        ({"max_tokens": 0, "echo": True, "stream": True}, "invalid_request"),
        ({"suffix": "end"}, "unsupported_parameter"),
        ({"best_of": 2}, "unsupported_parameter"),
        ({"prompt": "x" * 5000}, "context_length_exceeded"),
        ({"extra_body": {"messages": 7}}, "unsupported_parameter"),
        ({"extra_body": {"position": 8}, "model": "other"}, "model_not_found"),
    ],
)
def test_an_invalid_completion_request_gets_openais_error(live: Live, changes: dict[str, Any], code: str) -> None:
    with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as refused:
        live.openai().completions.create(**{"model": "policy", "prompt": "Once", **changes})
    assert refused.value.code == code
