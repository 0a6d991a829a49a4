"""Reading answers: the message does not depend on how tokens arrive, and the streamed text is the recorded text."""

from __future__ import annotations

import json
from typing import Any

import pytest

from server.rendering.answers import AnswerFormat, AnswerReader
from server.rendering.bytes_tokenizer import BytesTokenizer
from server.rendering.model_family import ParsedAnswer, ParsedCall, TaggedCalls

BYTES = BytesTokenizer()
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'


def read(text: str, size: int, **answer_format: object) -> tuple[dict, str, str]:
    """Return the message, and the streamed content and reasoning."""
    reader = AnswerReader(BYTES, AnswerFormat(**answer_format))
    ids = BYTES.encode(text)
    deltas = [d for at in range(0, len(ids), size) for d in reader.push(ids[at : at + size])] + reader.finish()
    message = reader.message
    for call in message.get("tool_calls", []):
        assert call.pop("id").startswith("call_")
    assert [d.call.name for d in deltas if d.call] == [c["function"]["name"] for c in message.get("tool_calls", [])]
    return message, "".join(d.content for d in deltas), "".join(d.reasoning for d in deltas)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    ("text", "content", "reasoning", "calls"),
    [
        ("Hello there. ", "Hello there. ", "", 0),
        ("  spaced  ", "  spaced  ", "", 0),
        ("1 < 2 <tool", "1 < 2 <tool", "", 0),
        (CALL, None, "", 1),
        (f"I look.\n\n{CALL}\n{CALL}\n", "I look.", "", 2),
        (f"<think>\nWhy not?\n</think>\n\nYes. {CALL}", "Yes.", "Why not?", 1),
        ("\n<think>\n\n</think>\n\nYes <think>", "Yes <think>", "", 0),
        ("<think>never closed", "", "never closed", 0),
        ("<tool_call>\nnot json\n</tool_call>", "<tool_call>\nnot json\n</tool_call>", "", 0),
        ('<tool_call>{"name": "cut", "argu', '<tool_call>{"name": "cut", "argu', "", 0),
        ("", "", "", 0),
    ],
)
def test_an_answer_reads_the_same_in_pieces_of_any_size(
    size: int, text: str, content: str | None, reasoning: str, calls: int
) -> None:
    message, streamed, thought = read(text, size, tools=True, reasons=True)
    assert message["content"] == content and streamed == (content or "")
    assert message.get("reasoning_content", "") == thought == reasoning
    assert len(message.get("tool_calls", [])) == calls
    for call in message.get("tool_calls", []):
        assert json.loads(call["function"]["arguments"]) == {"city": "Zürich"}


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    "call",
    [
        DEEP,
        f'{{"name": "weather", "arguments": {DEEP}',
        "[]",
        "null",
        "7",
        '"weather"',
        "{}",
        '{"arguments": {}}',
        '{"name": "weather"',
        "",
    ],
    ids=["nested", "nested arguments", "list", "null", "number", "text", "empty", "nameless", "cut off", "nothing"],
)
def test_a_call_that_cannot_be_read_is_shown_as_it_was_written(call: str) -> None:
    text = f"<tool_call>{call}</tool_call>"
    message, streamed, _ = read(text, 10_000, tools=True)
    assert message == {"role": "assistant", "content": text} and streamed == text
    message, streamed, _ = read(f"{text}{CALL}", 10_000, tools=True)
    assert streamed == text and len(message["tool_calls"]) == 1


@pytest.mark.parametrize("size", [1, 1000])
def test_tool_call_marks_are_text_in_a_request_without_tools(size: int) -> None:
    text = f"<think>hm</think> {CALL}"
    assert read(text, size)[0] == {"role": "assistant", "content": text}


def test_a_call_begun_by_the_prompt_needs_no_closing_mark() -> None:
    message, streamed, _ = read('{"name": "weather", "arguments": {}}', 3, tools=True, begins="call")
    assert message["content"] is None and streamed == ""
    assert message["tool_calls"][0]["function"] == {"name": "weather", "arguments": "{}"}


def test_reasoning_opened_by_the_prompt_is_reasoning() -> None:
    message, _, thought = read("so it is</think>\nYes.", 4, reasons=True, begins="reasoning")
    assert (message["content"], thought) == ("Yes.", "so it is")


def test_reasoning_opened_by_the_prompt_can_be_opened_again() -> None:
    message, _, thought = read("\n<think>so it is</think>\nYes.", 2, reasons=True, begins="reasoning")
    assert (message["content"], thought) == ("Yes.", "so it is")


def test_only_the_first_call_counts_when_one_is_allowed() -> None:
    message, _, _ = read(f"{CALL}\n{CALL}", 5, tools=True, one_call=True)
    assert len(message["tool_calls"]) == 1


class Channels:
    """A parser that shows nothing before the answer's end."""

    call_open, call_is_answer, in_thoughts = "", False, False

    def parse(self, token_ids: list[int]) -> ParsedAnswer:
        reasoning, content, call = BYTES.decode(token_ids).split("|")
        return ParsedAnswer(content, reasoning, [ParsedCall(call, text=call), ParsedCall(None, text="broken")])


@pytest.mark.parametrize("size", [1, 1000])
def test_an_answer_in_channels_is_shown_at_its_end(size: int) -> None:
    message, streamed, thought = read("hm|Yes. STOP No.|look", size, tools=True, stop=("STOP",), parser=Channels())
    assert (streamed, thought, message["tool_calls"][0]["function"]["name"]) == ("Yes.", "hm", "look")
    message, streamed, _ = read("hm|Yes.|look", size, parser=Channels())
    assert streamed == "Yes.\nlook\nbroken" and "tool_calls" not in message, "the request has no tools"


class Halves(Channels):
    """A parser that reads halves of surrogate pairs."""

    def parse(self, token_ids: list[int]) -> ParsedAnswer:
        return ParsedAnswer("a\ud83d", "\udc00b", [])


def test_halves_of_surrogate_pairs_in_content_and_thoughts_are_escapes() -> None:
    message, streamed, thought = read("x", 1, parser=Halves())
    assert (message["content"], streamed, thought) == ("a\\ud83d", "a\\ud83d", "\\udc00b")


def call_of(body: str) -> str:
    return f"<tool_call>\n{body}\n</tool_call>"


@pytest.mark.parametrize("size", [1, 5, 1000])
@pytest.mark.parametrize(
    ("body", "arguments"),
    [
        (r'{"name": "look", "arguments": {"at": "\ud83d", "\udc00": ["a\\\ud83d\ude00"]}}', None),
        ('{"name": "look", "parameters": {"at": "box"}}', {"at": "box"}),
        ('{"name": "look", "arguments": null, "parameters": {"at": "box"}}', {"at": "box"}),
        ('{"name": "look", "arguments": null}', {}),
        ('{"name": "look"}', {}),
        (r'{"name": "look", "arguments": "{\"at\": \"box\"}"}', {"at": "box"}),
        (
            '{"name": "look", "arguments": {"at": "a </tool_call> b </tool_call>"}}',
            {"at": "a </tool_call> b </tool_call>"},
        ),
        (r'{"name": "look", "arguments": {"at": "\"</tool_call>\\\""}}', {"at": '"</tool_call>\\"'}),
    ],
)
def test_the_arguments_of_a_call_are_always_an_object_that_utf8_can_encode(
    size: int, body: str, arguments: dict[str, Any] | None
) -> None:
    message, streamed, _ = read(f"I look. {call_of(body)} And so.", size, tools=True)
    function = message["tool_calls"][0]["function"]
    function["arguments"].encode()
    wanted = json.loads(body)["arguments"] if arguments is None else arguments
    assert (function["name"], json.loads(function["arguments"])) == ("look", wanted)
    assert message["content"] == streamed == "I look.\nAnd so.", "text around a call is kept"


def nested(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize(
    "body",
    [
        *(f'{{"name": "look", "arguments": {value}}}' for value in ("[1]", "5", "true", '"box"', '"[1]"', '""')),
        *(f'{{"name": "look", "arguments": {{"at": {value}}}}}' for value in ("NaN", "Infinity", "-Infinity", "1e999")),
        *(f'{{"name": {value}, "arguments": {{}}}}' for value in ("null", "5", '""', '" "', '["look"]', r'"\ud83d"')),
        '{"arguments": {}}',
        '["look", {}]',
        '"look"',
        f'{{"name": "look", "arguments": {nested(65)}}}',
        f'{{"name": "look", "arguments": {nested(5000)}}}',
        '{"name": "look", "arguments": {"at": "never closed}}',
        "",
    ],
)
def test_a_call_that_no_agent_could_use_is_shown_as_it_was_written_and_the_next_one_still_counts(
    size: int, body: str
) -> None:
    message, streamed, _ = read(f"{call_of(body)}\n{CALL}", size, tools=True)
    assert message["content"] == streamed == call_of(body)
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["weather"]


def test_a_call_that_is_cut_off_inside_a_string_with_a_closing_mark_is_text() -> None:
    text = '<tool_call>{"name": "look", "arguments": {"at": "</tool_call> and'
    assert read(text, 1, tools=True)[:2] == ({"role": "assistant", "content": text}, text)


def test_many_closing_marks_in_an_open_string_do_not_hold_the_answer_back() -> None:
    text = '<tool_call>{"name": "' + "</tool_call>" * 17
    assert read(text, 7, tools=True)[1] == text


class Careless:
    """A parser of calls that raises what it should not, or returns what it should not."""

    def __call__(self, text: str) -> ParsedCall:
        if text == "raise":
            raise IndexError(text)
        return ParsedCall("look", text)


@pytest.mark.parametrize("inside", ["raise", "[1]", "not json", '{"at": NaN}', '"text"'])
def test_a_careless_parser_loses_no_answer(inside: str) -> None:
    form = TaggedCalls("[CALL]", "[/CALL]", Careless())
    text = f"[CALL]{inside}[/CALL]"
    assert read(text, 2, tools=True, parser=form)[1] == text
    message, _, _ = read('[CALL]{"at":"box"}[/CALL]', 2, tools=True, parser=form)
    assert json.loads(message["tool_calls"][0]["function"]["arguments"]) == {"at": "box"}
