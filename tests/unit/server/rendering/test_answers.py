"""Reading answers: the message does not depend on how tokens arrive, and the streamed text is the recorded text."""

from __future__ import annotations

import json

import pytest

from server.rendering.answers import AnswerFormat, AnswerReader
from server.rendering.bytes_tokenizer import BytesTokenizer
from server.rendering.model_family import ParsedAnswer, ParsedCall

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
