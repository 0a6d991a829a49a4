"""Rendering: the tokens of the model's own template, exact continuation, clean streamed text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from server.engines.protocol import SamplingParams
from server.errors import BadRequest
from server.recording.tokens import chain_hash, chain_hashes
from server.recording.turn_request import TurnRequest
from server.rendering.bytes_tokenizer import CHAT_TEMPLATE, END_OF_TURN, IM_END, BytesTokenizer
from server.rendering.load import _names, load_renderer
from server.rendering.render import Renderer
from server.rendering.template import ChatTemplate
from server.rendering.tokenizer import TextStream
from server.wiring.checks import template_check
from tests.support.tiny_model import make_tiny_model

CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Héllo 1234 ✓"},
    {"role": "assistant", "content": "Yes.\n\nNo."},
    {"role": "user", "content": "  why  "},
]
BYTES = BytesTokenizer()
END = IM_END


def chat_template(source: str = CHAT_TEMPLATE, variables: dict[str, str] | None = None) -> ChatTemplate:
    return ChatTemplate(BYTES, source, END_OF_TURN, variables)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


def test_a_prompt_has_the_same_ids_as_in_transformers(directory: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(directory).apply_chat_template(
        CONVERSATION, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    assert load_renderer(directory).prompt(CONVERSATION) == theirs


def test_recorded_ids_plus_the_continuation_are_the_whole_conversation(directory: Path) -> None:
    renderer = load_renderer(directory)
    first = renderer.prompt(CONVERSATION[:2])
    answer = [*renderer.tokenizer.encode(CONVERSATION[2]["content"]), *renderer.end_ids]
    rest = renderer.follow(CONVERSATION, 3, [*first, *answer])
    assert rest is not None
    assert first + answer + rest == renderer.prompt(CONVERSATION)


def test_a_missing_end_of_turn_is_added_to_an_answer() -> None:
    template = chat_template()
    rest = template.continuation(CONVERSATION, 3, ord("o"))
    assert rest is not None and rest[0] == template.end_ids[0]
    assert template.continuation(CONVERSATION, 3, template.end_ids[0]) == rest[1:]


def changed(directory: Path, copy: Path, eos_ids: Any, template: str | None = None) -> Path:
    """Return a copy of a model whose configuration ends answers elsewhere than its template."""
    shutil.copytree(directory, copy)
    for name, change in (
        ("tokenizer_config.json", {"eos_token": "<|endoftext|>"}),
        ("config.json", {"eos_token_id": eos_ids}),
        ("generation_config.json", {"eos_token_id": eos_ids}),
    ):
        path = copy / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    if template is not None:
        (copy / "chat_template.jinja").write_text(template)
    return copy


@pytest.mark.parametrize(
    ("eos_ids", "stops"), [(256, {END}), (None, {256, END}), ([256, END], set()), ([], {256, END}), ([END], {256})]
)
def test_answers_end_where_the_template_ends_them_whatever_the_eos_token_is(
    directory: Path, tmp_path: Path, eos_ids: Any, stops: set[int]
) -> None:
    renderer = load_renderer(changed(directory, tmp_path / "model", eos_ids))
    assert (renderer.end_ids, set(renderer.stop_ids), renderer.ends_answers) == ([END], stops, True)
    first = renderer.prompt(CONVERSATION[:2])
    answer = [*renderer.tokenizer.encode(CONVERSATION[2]["content"]), END]
    rest = renderer.follow(CONVERSATION, 3, [*first, *answer])
    assert rest is not None and first + answer + rest == renderer.prompt(CONVERSATION)
    assert renderer.tokenizer.decode(answer) == CONVERSATION[2]["content"]


def test_a_model_without_an_eos_token_ends_where_its_configuration_or_its_template_says(
    directory: Path, tmp_path: Path
) -> None:
    words = CHAT_TEMPLATE.replace("<|im_end|>", " Over.")
    for eos_ids, template, end_ids in ((256, None, [END]), ([256, END], words, [256]), (None, None, [END])):
        model = changed(directory, tmp_path / str(end_ids) / str(eos_ids), eos_ids, template)
        (model / "tokenizer_config.json").write_text("{}")
        assert load_renderer(model).end_ids == end_ids
    model = changed(directory, tmp_path / "model", None, words)
    (model / "tokenizer_config.json").write_text("{}")
    with pytest.raises(BadRequest, match="no eos_token"):
        load_renderer(model)


async def test_a_template_that_ends_no_answer_is_reported(
    directory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = CHAT_TEMPLATE.replace("<|im_end|>", " Over.")
    renderer = load_renderer(changed(directory, tmp_path / "model", 256, words))
    assert "ends answers with no special token" in caplog.text
    part = await template_check(renderer)()
    assert (part.ok, part.blocks) == (False, False) and part.advice and "chat template" in part.advice
    assert (await template_check(load_renderer(directory))()).ok


def test_a_request_that_ignores_the_end_of_an_answer_has_no_stop_ids() -> None:
    for extra, stops in (({}, (END,)), ({"ignore_eos": True}, ()), ({"ignore_eos": False}, (END,))):
        request = TurnRequest(CONVERSATION, SamplingParams(5, extra=extra))
        assert request.params(0, 9, (END,)).stop_ids == stops


def test_a_template_that_rewrites_history_forks() -> None:
    forgetful = "{% for m in messages[-1:] %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    assert chat_template(forgetful).continuation(CONVERSATION, 3, 258) is None


def test_a_template_that_rejects_messages_is_a_bad_request() -> None:
    strict = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(BadRequest, match="roles must alternate"):
        chat_template(strict).prompt(CONVERSATION)


def test_a_model_without_a_chat_template_is_refused_with_advice(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(BadRequest, match="instruct model"):
        load_renderer(tmp_path)


def test_list_content_is_joined() -> None:
    template = chat_template()
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    assert template.prompt(parts) == template.prompt([{"role": "user", "content": "ab"}])


def test_streamed_text_has_whole_characters_and_adds_up() -> None:
    ids = BYTES.encode("naïve ✓ 🙂 end")
    stream = TextStream(BYTES)
    pieces = [stream.push([i]) for i in ids] + [stream.finish()]
    assert "".join(pieces) == stream.text == "naïve ✓ 🙂 end"
    assert not any("�" in piece for piece in pieces)


def test_no_part_of_a_stop_string_is_ever_sent() -> None:
    stream = TextStream(BYTES, ["STOP", "##"])
    pieces = [stream.push([i]) for i in BYTES.encode("go on ST#O STOP now")] + [stream.finish()]
    assert "".join(pieces) == stream.text == "go on ST#O "


def test_special_tokens_are_left_out_of_the_text() -> None:
    stream = TextStream(BYTES)
    assert stream.push([*BYTES.encode("hi"), 258]) + stream.finish() == "hi"


TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
CALLED = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "sky"}'}}],
}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "blue"}
REASONING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if loop.last and m.role == 'assistant' %}<think>\n</think>\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)


def test_a_template_with_tool_support_gets_arguments_as_objects() -> None:
    source = (
        "{% if tools %}{{ tools[0].function.name }}:{% endif %}{% for m in messages %}{{ m.role }}"
        "{% for c in m.tool_calls or [] %}({{ c.function.arguments.at }}){% endfor %}{% endfor %}"
    )
    template = chat_template(source)
    assert (
        template.text([*CONVERSATION[:2], CALLED, RESULT], ask=False, tools=[TOOL])
        == "look:systemuserassistant(sky)tool"
    )
    assert template.text(CONVERSATION[:2], ask=False) == "systemuser"


def test_a_template_without_tool_support_gets_plain_messages() -> None:
    template = chat_template()
    text = template.text([*CONVERSATION[:2], CALLED, RESULT], ask=True, tools=[TOOL])
    assert text.startswith("<|im_start|>system\nBe brief.\n\nYou can call tools.")
    assert '{"name": "look", "parameters": {"type": "object"}}' in text
    written = '<tool_call>\n{"name": "look", "arguments": {"at": "sky"}}\n</tool_call>'
    assert f"<|im_start|>assistant\n{written}<|im_end|>" in text
    assert "<|im_start|>user\n<tool_response>\nblue\n</tool_response><|im_end|>" in text
    ids = template.prompt([*CONVERSATION[:2], CALLED, RESULT], [TOOL])
    answer = BYTES.encode(written)
    rest = template.continuation([*CONVERSATION[:2], CALLED, RESULT], 3, END, [TOOL])
    assert rest is not None
    assert [*template.prompt(CONVERSATION[:2], [TOOL]), *answer, END, *rest] == ids


def test_a_template_that_drops_earlier_thoughts_does_not_fork() -> None:
    template = chat_template(REASONING)
    conversation = [
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "So."},
        {"role": "user", "content": "And?"},
    ]
    assert not template.text(conversation, ask=True).startswith(template.text(conversation[:2], ask=False)), (
        "history is rewritten"
    )
    rest = template.continuation(conversation, 2, END)
    assert rest is not None
    assert BYTES.decode(rest, skip_special=False) == (
        "\n<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n<think>\n"
    )
    assert Renderer(template).parser(rest).in_thoughts


@pytest.mark.parametrize(
    "by_position",
    ["{{ loop.index }}", "{{ messages|length }}", "{{ loop.revindex }}{{ loop.index0 }}", "{{ messages[0].content }}"],
)
def test_a_template_that_renders_new_messages_by_their_position_forks(by_position: str) -> None:
    source = REASONING.replace("{{ m.content }}", "{{ m.content }}" + by_position)
    conversation = [
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "So."},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "Thus."},
        {"role": "user", "content": "Then?"},
    ]
    assert chat_template(source).continuation(conversation, 4, END) is None
    assert chat_template(REASONING).continuation(conversation, 4, END) is not None


def test_a_conversation_without_new_messages_is_not_continued_by_a_template_that_rewrites_history() -> None:
    conversation = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    plain = chat_template()
    assert plain.continuation(conversation, 2, END) == BYTES.encode("\n<|im_start|>assistant\n")
    rewriting = (
        "{% for m in messages %}<|im_start|>{{ m.content }}{% if loop.last and not add_generation_prompt %}!{% endif %}"
        "<|im_end|>{% endfor %}"
    )
    assert chat_template(rewriting).continuation(conversation, 2, END) is None


def test_a_template_gets_only_the_options_that_it_reads() -> None:
    source = (
        "{% set name = 'Ada' %}{% if tone is not defined %}{% set tone = 'plain' %}{% endif %}"
        "{{ name }} {{ tone }} {{ mood or '' }}{% for m in messages %}{{ m.role }}{% endfor %}"
    )
    template = chat_template(source, {"bos_token": "<s>"})
    assert template.text(CONVERSATION[:1], ask=True) == "Ada plain system"
    assert template.text(CONVERSATION[:1], ask=True, options={"tone": "warm", "mood": "well"}) == "Ada warm wellsystem"
    for name in ("name", "bos_token", "messages", "strftime_now", "other"):
        with pytest.raises(BadRequest, match=f"does not know {name}; it knows mood, tone"):
            template.prompt(CONVERSATION, (), {name: "x"})


def test_changes_by_sdks_do_not_change_the_hash_of_a_message() -> None:
    sent = {
        "role": "assistant",
        "content": "Yes. ",
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "look", "arguments": '{"at":"sky","n":1}'}}
        ],
    }
    back = {
        "role": "assistant",
        "content": [{"type": "text", "text": "Yes."}],
        "refusal": None,
        "audio": None,
        "tool_calls": [
            {
                "id": "b",
                "type": "function",
                "index": 0,
                "function": {"arguments": '{"n": 1, "at": "sky"}', "name": "look"},
            }
        ],
    }
    assert chain_hash("", sent) == chain_hash("", back)
    assert chain_hash("", sent) != chain_hash("", {**sent, "content": "No."})
    assert chain_hash("", sent) != chain_hash("x", sent)
    assert chain_hashes([sent], [TOOL]) != chain_hashes([sent])


def test_a_model_of_a_hubs_cache_has_its_name_on_the_hub(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--Qwen--Qwen3-0.6B" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    assert _names(snapshot, "") == ("abc", "Qwen/Qwen3-0.6B")
    (snapshot / "config.json").write_text('{"model_type": "qwen3", "architectures": ["A"], "_name_or_path": ""}')
    (snapshot / "tokenizer_config.json").write_text('{"name_or_path": "mine"}')
    assert _names(snapshot, "given") == ("given", "abc", "Qwen/Qwen3-0.6B", "qwen3", "['A']", "mine")
