"""Model families of the library: the template's prompts, exact continuations, and calls in the family's own form."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from server.errors import BadRequest
from server.recording.tokens import chain_hashes
from server.recording.turn_request import TurnRequest
from server.rendering.answers import AnswerFormat, AnswerReader
from server.rendering.families import MODULES, model_families
from server.rendering.load import load_renderer
from server.rendering.model_family import TaggedCalls
from server.rendering.render import Renderer
from server.rendering.tokenizer import FileTokenizer
from tests.support.family_models import FAMILIES, make_family_model

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells it.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
    },
}
ASK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How is it in Zürich and Rome?"}]
CITIES = [{"city": "Zürich", "days": 2}, {"city": "Rome", "days": 1}]
RESULTS = [{"role": "tool", "content": "rain"}, {"role": "tool", "content": "sun"}]


def calls(name: str, *cities: dict[str, Any]) -> str:
    """Return calls in the form of a family."""
    if name == "qwen3":
        return "\n".join(
            "<tool_call>\n" + json.dumps({"name": "weather", "arguments": c}, ensure_ascii=False) + "\n</tool_call>"
            for c in cities
        )
    if name == "llama-3":
        return json.dumps({"name": "weather", "parameters": cities[0]}, ensure_ascii=False)
    if name == "glm-4.5":
        return "".join(
            f"<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>{c['city']}</arg_value>\n"
            f"<arg_key>days</arg_key>\n<arg_value>{c['days']}</arg_value>\n</tool_call>"
            for c in cities
        )
    inside = "".join(
        f'<invoke name="weather">\n<parameter name="city">{c["city"]}</parameter>\n'
        f'<parameter name="days">{c["days"]}</parameter>\n</invoke>\n'
        for c in cities
    )
    return f"<minimax:tool_call>\n{inside}</minimax:tool_call>"


END = {"qwen3": "<|im_end|>", "minimax-m2": "[e~[", "glm-4.5": "<|observation|>", "llama-3": "<|eot_id|>"}


@pytest.fixture(scope="module")
def renderers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Renderer]:
    folder = tmp_path_factory.mktemp("families")
    return {name: load_renderer(make_family_model(folder / name, family)) for name, family in FAMILIES.items()}


def reader(renderer: Renderer, prompt: list[int], **more: Any) -> AnswerReader:
    """Return a reader of the answer to a prompt, as a turn makes it."""
    parser = renderer.parser(prompt, [TOOL])
    assert not isinstance(parser, TaggedCalls)
    answer_format = {
        "tools": True,
        "reasons": renderer.reasons,
        "begins": "reasoning" if parser.in_thoughts else "content",
        "parser": parser,
        **more,
    }
    return AnswerReader(renderer.tokenizer, AnswerFormat(**answer_format))


def read(renderer: Renderer, prompt: list[int], text: str, size: int, **more: Any) -> dict[str, Any]:
    """Read an answer in pieces and check that the streamed pieces are the message."""
    reading, ids = reader(renderer, prompt, **more), renderer.tokenizer.encode(text)
    deltas = [d for at in range(0, len(ids), size) for d in reading.push(ids[at : at + size])] + reading.finish()
    message = reading.message
    assert "".join(d.content for d in deltas) == (message["content"] or "")
    assert "".join(d.reasoning for d in deltas) == message.get("reasoning_content", "")
    assert [d.call.as_message() for d in deltas if d.call] == message.get("tool_calls", [])
    return message


def called(message: dict[str, Any]) -> list[Any]:
    return [json.loads(call["function"]["arguments"]) for call in message.get("tool_calls", [])]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_recognized_by_its_template(renderers: dict[str, Renderer], name: str) -> None:
    assert renderers[name].family.name == name


@pytest.mark.parametrize("name", FAMILIES)
def test_a_prompt_has_the_ids_of_the_models_own_template(tmp_path: Path, name: str) -> None:
    directory = make_family_model(tmp_path, FAMILIES[name])
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(directory / "tokenizer.json"), eos_token=FAMILIES[name].eos)
    conversation = [
        *ASK,
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "Hm.",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": CITIES[0]}}],
        },
        RESULTS[0],
    ]
    wanted = theirs.apply_chat_template(
        conversation,
        tools=[TOOL],
        chat_template=(directory / "chat_template.jinja").read_text(),
        add_generation_prompt=True,
        return_dict=False,
        **({"date_string": "26 Jul 2024"} if name == "llama-3" else {}),
    )
    conversation[2] = {
        **conversation[2],
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": json.dumps(CITIES[0])}}
        ],
    }
    assert load_renderer(directory).prompt(conversation, [TOOL]) == wanted


@pytest.mark.parametrize("name", FAMILIES)
def test_recorded_ids_continue_exactly_with_tools_and_thoughts(renderers: dict[str, Renderer], name: str) -> None:
    renderer = renderers[name]
    encode, decode = renderer.tokenizer.encode, renderer.tokenizer.decode_all
    cities = CITIES[:1] if name == "llama-3" else CITIES
    prompt = renderer.prompt(ASK, [TOOL])
    opened = decode(prompt).endswith("<think>\n")
    thoughts = "" if name == "llama-3" else f"{'' if opened else '<think>'}Both matter.\n</think>\n"
    recorded = prompt + encode(thoughts + calls(name, *cities) + END[name])
    message = read(renderer, prompt, thoughts + calls(name, *cities) + END[name], 3)
    assert called(message) == cities and message.get("reasoning_content") == (
        None if name == "llama-3" else "Both matter."
    )
    del message["reasoning_content" if thoughts else "role"]  # Most agents send no thoughts back.
    conversation = [*ASK, {**message, "role": "assistant"}, *RESULTS[: len(cities)]]
    rest = renderer.follow(conversation, 3, recorded, [TOOL])
    assert rest is not None and "rain" in decode(rest)
    prompt = recorded + rest
    written = renderer.tokenizer.encode("It rains.")
    close = encode("</think>") if decode(prompt).endswith("<think>\n") or name == "glm-4.5" else []
    recorded = [*prompt, *close, *written, *renderer.family.stop_ids[:1]]
    conversation += [{"role": "assistant", "content": "It rains."}, {"role": "user", "content": "And now?"}]
    rest = renderer.follow(conversation, len(conversation) - 1, recorded, [TOOL])
    assert rest is not None, "dropped thoughts must not fork the conversation"
    assert renderer.prompt(conversation, [TOOL])[-len(rest) :] == rest
    assert thoughts in decode(recorded)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_answer_cut_off_at_its_length_limit_gets_an_end_of_turn(renderers: dict[str, Renderer], name: str) -> None:
    renderer = renderers[name]
    prompt = renderer.prompt(ASK)
    close = renderer.tokenizer.encode("</think>") if renderer.parser(prompt).in_thoughts else []
    conversation = [*ASK, {"role": "assistant", "content": "It"}, {"role": "user", "content": "Go on"}]
    recorded = [*prompt, *close, *renderer.tokenizer.encode("It")]
    rest = renderer.follow(conversation, 3, recorded)
    assert rest is not None and rest[0] in renderer.family.stop_ids


def test_history_that_differs_from_the_record_is_not_continued(renderers: dict[str, Renderer]) -> None:
    renderer = renderers["qwen3"]
    prompt = renderer.prompt(ASK)
    conversation = [*ASK, {"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert renderer.follow(conversation, 3, [*prompt, *renderer.tokenizer.encode("a<|im_end|>")]) is None
    assert renderer.follow(ASK, 1, [1, 2, 3]) is None


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("name", "text", "content", "reasoning", "count"),
    [
        ("qwen3", "  Plain text. ", "  Plain text. ", "", 0),
        ("qwen3", "<think>\nWhy?\n</think>\n\nI look.\nCALLS", "I look.", "Why?", 2),
        ("qwen3", "Wait. <tool_call>\nnot json\n</tool_call>", "Wait. <tool_call>\nnot json\n</tool_call>", "", 0),
        ("qwen3", 'Wait. CALLS\n<tool_call>\n{"name"', 'Wait.\n<tool_call>\n{"name"', "", 2),
        ("qwen3", "<think>A CALLS in thoughts</think>No.", "No.", "A CALLS in thoughts", 0),
        ("qwen3", "<think>No end CALLS", None, "No end", 2),
        ("qwen3", "<think>never closed", "", "never closed", 0),
        ("qwen3", "I look.\nCALLS\nAnd so.", "I look.\nAnd so.", "", 2),
        ("qwen3", "CALLS\n<tool_call>no</tool_call> And so.", "And so.\n<tool_call>no</tool_call>", "", 2),
        ("minimax-m2", "So.\n</think>\n\nI look.\nCALLS", "I look.", "So.", 2),
        ("minimax-m2", "So.</think>I look.\nCALLS\nAnd so.", "I look.\nAnd so.", "So.", 2),
        ("minimax-m2", "So.</think><minimax:tool_call>\n<invoke", "<minimax:tool_call>\n<invoke", "So.", 0),
        ("glm-4.5", "\n<think>Hm</think>\nI look.\nCALLSAnd so.", "I look.\nAnd so.", "Hm", 2),
        ("glm-4.5", "\n<think></think>\nJust text", "Just text", "", 0),
        ("llama-3", " CALLS", None, "", 1),
        ("llama-3", "A set is {1, 2}.", "A set is {1, 2}.", "", 0),
        ("llama-3", '{"no": "call"}', '{"no": "call"}', "", 0),
    ],
)
def test_an_answer_in_a_familys_form_reads_the_same_in_pieces_of_any_size(
    renderers: dict[str, Renderer], name: str, text: str, content: str | None, reasoning: str, count: int, size: int
) -> None:
    renderer, written = renderers[name], calls(name, *CITIES)
    message = read(renderer, renderer.prompt(ASK, [TOOL]), text.replace("CALLS", written) + END[name], size)
    assert message["content"] == content
    assert message.get("reasoning_content", "") == reasoning.replace("CALLS", written)
    assert called(message) == CITIES[:count]


HALF = r'{"city": "\ud83d </tool_call>", "days": 2}'
"""Arguments with half of a surrogate pair and the mark that ends a call."""


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize(
    ("name", "text", "arguments"),
    [
        ("qwen3", f'<tool_call>{{"name": "weather", "arguments": {HALF}}}</tool_call>', HALF),
        ("qwen3", f'<tool_call>{{"name": "weather", "parameters": {HALF}}}</tool_call>', HALF),
        ("qwen3", '<tool_call>{"name": "weather", "arguments": null}</tool_call>', "{}"),
        ("qwen3", '<tool_call>{"name": "weather", "arguments": {"days": NaN}}</tool_call>', None),
        ("qwen3", '<tool_call>{"name": "weather", "arguments": [1]}</tool_call>', None),
        ("qwen3", '<tool_call>{"name": 5, "arguments": {}}</tool_call>', None),
        ("llama-3", f'{{"name": "weather", "parameters": {HALF}}}', HALF),
        ("llama-3", '{"name": "weather", "parameters": null}', "{}"),
        ("llama-3", '{"name": "weather", "parameters": [1]}', None),
        ("llama-3", '{"name": "weather", "parameters": {"days": NaN}}', None),
        ("llama-3", '{"name": 5, "parameters": {}}', None),
        ("llama-3", '{"name": ["weather"], "parameters": {}}', None),
        (
            "glm-4.5",
            "<tool_call>weather\n<arg_key>days</arg_key>\n<arg_value>NaN</arg_value>\n</tool_call>",
            None,
        ),
        (
            "minimax-m2",
            '<minimax:tool_call><invoke name="weather"><parameter name="days">NaN</parameter></invoke>'
            "</minimax:tool_call>",
            None,
        ),
    ],
)
def test_a_familys_call_has_an_object_of_arguments_or_is_shown_as_it_was_written(
    renderers: dict[str, Renderer], name: str, text: str, arguments: str | None, size: int
) -> None:
    renderer = renderers[name]
    prompt = renderer.prompt(ASK, [TOOL])
    close = "</think>" if renderer.parser(prompt).in_thoughts else ""
    message = read(renderer, prompt, f"{close}{text}{END[name]}", size)
    json.dumps(message, ensure_ascii=False).encode()
    if arguments is None:
        assert (message["content"], "tool_calls" in message) == (text, False)
    else:
        assert called(message) == [json.loads(arguments)]
        conversation = [*ASK, message, {**RESULTS[0], "tool_call_id": message["tool_calls"][0]["id"]}]
        assert renderer.prompt(conversation, [TOOL]), "the agent sends the call back"


def test_text_is_streamed_while_it_is_sampled(renderers: dict[str, Renderer]) -> None:
    renderer = renderers["glm-4.5"]
    reading = reader(renderer, renderer.prompt(ASK, [TOOL]))
    assert [d.reasoning for d in reading.push(renderer.tokenizer.encode("\n<think>Hm, so"))] == ["Hm, so"]
    assert [d.content for d in reading.push(renderer.tokenizer.encode("</think>\nI look"))] == ["I look"]
    assert reading.push(renderer.tokenizer.encode(calls("glm-4.5", *CITIES))) == []
    assert len(reading.finish()) == 2


def test_calls_are_text_without_tools_and_only_the_first_counts_when_one_is_allowed(
    renderers: dict[str, Renderer],
) -> None:
    renderer = renderers["minimax-m2"]
    prompt, written = renderer.prompt(ASK), calls("minimax-m2", *CITIES)
    assert read(renderer, prompt, f"</think>{written}[e~[", 5, tools=False)["content"] == written
    message = read(renderer, prompt, f"</think>{written}[e~[", 5, one_call=True)
    assert called(message) == CITIES[:1]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_template_that_differs_from_its_family_is_used_with_a_warning(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    change = ("ipython\\n", "Python\\n") if name == "llama-3" else ("tool_calls", "no_calls")
    directory = make_family_model(tmp_path / name, FAMILIES[name], change)
    with caplog.at_level(logging.WARNING):
        renderer = load_renderer(directory)
    assert renderer.family.name == "template" and isinstance(renderer.parser([1]), TaggedCalls)
    assert [r.levelname for r in caplog.records if r.name.endswith("family_choice")] == ["WARNING"]
    assert "the model's own chat template" in caplog.text and f"{name}: in conversation" in caplog.text
    with pytest.raises(BadRequest, match="does not fit this model: in conversation"):
        load_renderer(directory, name)


def test_a_family_can_be_requested_or_switched_off(tmp_path: Path) -> None:
    directory = make_family_model(tmp_path / "model", FAMILIES["qwen3"])
    assert load_renderer(directory, "template").family.name == "template"
    assert load_renderer(directory, "qwen3").family.name == "qwen3"
    with pytest.raises(BadRequest, match=r"Special token .* not found"):
        load_renderer(directory, "llama-3")
    with pytest.raises(BadRequest, match="is not one of auto, template, qwen3"):
        load_renderer(directory, "qwen17")


def test_every_registered_family_has_a_unique_name() -> None:
    names = [family.name for module in MODULES for family in import_module(module).FAMILIES]
    assert list(model_families()) == names and names[0] == "template"


def test_only_a_family_with_json_calls_supports_a_forced_call(renderers: dict[str, Renderer]) -> None:
    assert renderers["qwen3"].forced_call(after_reasoning=False)
    with pytest.raises(BadRequest, match="minimax-m2 does not support a forced tool call"):
        renderers["minimax-m2"].forced_call(after_reasoning=False)


@pytest.mark.parametrize("source", ["auto", "template"])
def test_template_options_reach_the_template_and_unknown_options_are_refused(tmp_path: Path, source: str) -> None:
    renderer = load_renderer(make_family_model(tmp_path, FAMILIES["qwen3"]), source)
    off = {"enable_thinking": False}
    asked, whole = renderer.prompt(ASK, (), off), renderer.prompt(ASK)
    assert asked[: len(whole)] == whole
    assert renderer.tokenizer.decode_all(asked[len(whole) :]) == "<think>\n\n</think>\n\n"
    conversation = [*ASK, {"role": "assistant", "content": "Wet."}, {"role": "user", "content": "And now?"}]
    rest = renderer.follow(conversation, 3, [*asked, *renderer.tokenizer.encode("Wet.<|im_end|>")], (), off)
    assert rest is not None and renderer.tokenizer.decode_all(rest).endswith("<think>\n\n</think>\n\n")
    with pytest.raises(BadRequest, match=r"does not know tone; it knows enable_thinking") as refused:
        renderer.prompt(ASK, (), {"tone": "warm"})
    assert refused.value.param == "chat_template_kwargs"


def test_an_invalid_value_of_an_option_is_refused(renderers: dict[str, Renderer]) -> None:
    with pytest.raises(BadRequest, match="enable_thinking"):
        renderers["qwen3"].prompt(ASK, (), {"enable_thinking": ["no"]})


def test_different_template_options_start_a_different_conversation() -> None:
    asks = [TurnRequest(ASK, None, template_options=options) for options in ({}, {"enable_thinking": False})]
    assert chain_hashes(ASK, asks[0].frame) == chain_hashes(ASK)
    assert chain_hashes(ASK, asks[1].frame) != chain_hashes(ASK)


def test_text_that_spells_a_special_token_does_not_become_that_token(renderers: dict[str, Renderer]) -> None:
    tokenizer = renderers["qwen3"].tokenizer
    assert isinstance(tokenizer, FileTokenizer)
    spelled = [i for char in "<tool_call>" for i in tokenizer.encode(char)]
    assert spelled != tokenizer.encode("<tool_call>")
    reading = reader(renderers["qwen3"], renderers["qwen3"].prompt(ASK, [TOOL]))
    deltas = reading.push([*spelled, *tokenizer.encode('{"name": "weather"}</tool_call>')]) + reading.finish()
    assert not reading.calls and "".join(d.content for d in deltas).startswith("<tool_call>")


def test_the_library_is_imported_only_when_a_model_needs_it() -> None:
    code = "import sys, server.app; sys.exit(any(m in sys.modules for m in ('renderers', 'openai', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[4], check=False).returncode == 0
