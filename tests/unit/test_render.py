"""Rendering: the same tokens as the model's own template, exact continuation, clean streaming text."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from server.errors import BadRequest
from server.policy.bytes_tokenizer import CHAT_TEMPLATE, END_OF_TURN, BytesTokenizer
from server.policy.render import Renderer, TextStream
from tests.tiny_model import make_tiny_model

TALK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Héllo 1234 ✓"},
        {"role": "assistant", "content": "Yes.\n\nNo."}, {"role": "user", "content": "  why  "}]
BYTES = BytesTokenizer()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


def test_a_prompt_has_the_ids_that_transformers_gives(directory: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(directory).apply_chat_template(
        TALK, add_generation_prompt=True, tokenize=True, return_dict=False)
    assert Renderer.from_directory(directory).prompt(TALK) == theirs


def test_recorded_ids_plus_the_continuation_are_the_whole_conversation(directory: Path) -> None:
    renderer = Renderer.from_directory(directory)
    first = renderer.prompt(TALK[:2])
    answer = [*renderer.tokenizer.encode(TALK[2]["content"]), *renderer.end_ids]
    rest = renderer.continuation(TALK, 3, answer[-1])
    assert rest is not None
    assert first + answer + rest == renderer.prompt(TALK)


def test_an_answer_without_its_end_of_turn_gets_one() -> None:
    renderer = Renderer(BYTES, CHAT_TEMPLATE, END_OF_TURN)
    rest = renderer.continuation(TALK, 3, ord("o"))
    assert rest is not None and rest[0] == renderer.end_ids[0]
    assert renderer.continuation(TALK, 3, renderer.end_ids[0]) == rest[1:]


def test_a_template_that_rewrites_history_forks() -> None:
    forgetful = "{% for m in messages[-1:] %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    assert Renderer(BYTES, forgetful, END_OF_TURN).continuation(TALK, 3, 258) is None


def test_a_template_that_refuses_is_a_bad_request() -> None:
    strict = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(BadRequest, match="roles must alternate"):
        Renderer(BYTES, strict, END_OF_TURN).prompt(TALK)


def test_a_model_without_a_chat_template_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(BadRequest, match="instruct model"):
        Renderer.from_directory(tmp_path)


def test_list_content_is_joined() -> None:
    renderer = Renderer(BYTES, CHAT_TEMPLATE, END_OF_TURN)
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    assert renderer.prompt(parts) == renderer.prompt([{"role": "user", "content": "ab"}])


def test_streamed_text_has_whole_characters_and_adds_up() -> None:
    ids = BYTES.encode("naïve ✓ 🙂 end")
    stream = TextStream(BYTES)
    pieces = [stream.push([i]) for i in ids] + [stream.finish()]
    assert "".join(pieces) == stream.text == "naïve ✓ 🙂 end"
    assert not any("�" in piece for piece in pieces)


def test_nothing_of_a_stop_string_is_ever_sent() -> None:
    stream = TextStream(BYTES, ["STOP", "##"])
    pieces = [stream.push([i]) for i in BYTES.encode("go on ST#O STOP now")] + [stream.finish()]
    assert "".join(pieces) == stream.text == "go on ST#O "


def test_special_tokens_are_no_text() -> None:
    stream = TextStream(BYTES)
    assert stream.push([*BYTES.encode("hi"), 258]) + stream.finish() == "hi"
