"""Sampled ids to the assistant's message, piece by piece: content, reasoning, tool calls (after step 3).

The pieces sent while an answer is sampled, joined, are exactly the message at its end: the agent will send it back, and
the record has to recognize it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from server.rendering.calls_in_text import CallText, usable
from server.rendering.hermes import HERMES_CALLS
from server.rendering.json_text import escaped
from server.rendering.model_family import AnswerParser, ParsedCall, TaggedCalls, WholeAnswerParser
from server.rendering.tokenizer import TextStream, Tokenizer, up_to_stop
from server.rendering.tool_calls import THINK_CLOSE, THINK_OPEN

Part = Literal["content", "reasoning", "call"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A complete call."""

    position: int
    """Index among the calls of its answer, from 0."""
    id: str
    name: str
    arguments: str
    """An object as JSON."""

    def as_message(self) -> dict[str, Any]:
        """Return the call as an element of a message's `tool_calls`."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an answer: some content, some reasoning, or one call."""

    content: str = ""
    reasoning: str = ""
    call: ToolCall | None = None
    token_ids: tuple[int, ...] = ()
    """Tokens sampled since the piece before, if the request asked for their logprobs."""
    logprobs: tuple[float, ...] = ()
    top_logprobs: tuple[dict[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """How to read one answer."""

    stop: tuple[str, ...] = ()
    tools: bool = False
    """Read tool calls out of the text."""
    reasons: bool = False
    """The answer may begin with reasoning."""
    begins: Part = "content"
    """The part that the prompt has opened already."""
    parser: AnswerParser = HERMES_CALLS
    """Parses the calls, or the whole answer, in the form of the model's family."""
    one_call: bool = False
    """Only the first call counts."""


class AnswerReader:
    """Reads one answer while it is sampled."""

    def __init__(
        self, tokenizer: Tokenizer, answer_format: AnswerFormat, call_id: Callable[[int], str] | None = None
    ) -> None:
        """Read an answer.

        Args:
            tokenizer: decodes it.
            answer_format: how to read it.
            call_id: names its k-th tool call, unless the model does; default: at random.
        """
        self._call_id = call_id or (lambda _: f"call_{secrets.token_hex(12)}")
        self._stream = TextStream(tokenizer, answer_format.stop)
        self._format = answer_format
        parser = answer_format.parser
        self._tagged = parser if isinstance(parser, TaggedCalls) else HERMES_CALLS
        self._call = CallText(self._tagged)
        """The call that is being read."""
        self._whole: WholeAnswerParser | None = None if isinstance(parser, TaggedCalls) else parser
        self._ids: list[int] = []
        self._part: Part = answer_format.begins
        self._text = ""
        """Decoded text that has not been sent."""
        self._begun = answer_format.begins == "call"
        """Something other than white space was read, so no reasoning can follow."""
        self._trims = False
        """White space that comes next separates two parts and belongs to neither."""
        self._space = ""
        """White space before the call that is being read."""
        self._resumes = False
        """Text that comes next continues the content after a call."""
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self.calls: list[ToolCall] = []

    def push(self, token_ids: Sequence[int]) -> list[Delta]:
        """Add ids; return the pieces that can be sent now."""
        self._ids.extend(token_ids)
        return [] if self._shown_at_end else self._read(self._stream.push(token_ids), last=False)

    def finish(self) -> list[Delta]:
        """Return the remaining pieces."""
        if self._whole is not None and self._shown_at_end:
            return self._keep(self._whole_answer(self._whole))
        return self._read(self._stream.finish(), last=True)

    @property
    def message(self) -> dict[str, Any]:
        """The assistant's message so far."""
        return _message("".join(self._content), "".join(self._reasoning), self.calls)

    @property
    def _shown_at_end(self) -> bool:
        return self._whole is not None and not self._whole.call_open

    def _read(self, text: str, *, last: bool) -> list[Delta]:
        self._text += text
        return self._keep(self._deltas(last))

    def _deltas(self, last: bool) -> Iterator[Delta]:
        while True:
            if self._format.reasons and not self._begun and not self._opening_is_clear(last):
                return
            if self._trims:
                self._text = self._text.lstrip()
                self._trims = not self._text
            thought_end = THINK_CLOSE if self._part == "reasoning" else None
            call_mark = self._call_mark()
            if self._part == "call":
                if (found := self._call.read(self._text, last=last)) is None:
                    return
                yield from self._tagged_call(found.call, found.closed)
                self._part, self._text, self._call = "content", found.rest, CallText(self._tagged)
                if found.call.name is None:
                    continue
                closed = found.closed
            elif thought_end and thought_end in self._text:
                before, _, self._text = self._text.partition(thought_end)
                yield from self._plain(before.rstrip())
                self._part, closed = "content", True
            elif call_mark and call_mark in self._text:
                before = self._text.partition(call_mark)[0].rstrip()
                yield from self._plain(before)
                self._text = self._text[len(before) :]
                if self._whole is not None:
                    yield from self._calls_at_end(self._whole) if last else ()
                    return
                self._space, _, self._text = self._text.partition(call_mark)
                self._part, self._begun = "call", True
                continue
            else:
                held = 0 if last else max(_held_back(self._text, thought_end), _held_back(self._text, call_mark))
                settled = self._text[: len(self._text) - held]
                self._text = self._text[len(settled) :]
                yield from self._plain(settled)
                return
            if not closed:
                return
            self._begun = self._trims = True

    def _call_mark(self) -> str | None:
        """Return the mark that would begin a call here."""
        if not self._format.tools or self._part == "call":
            return None
        if self._whole is None:
            return self._tagged.call_open if self._part == "content" else None
        mark = self._whole.call_open
        if self._whole.call_is_answer:
            answer = "".join([*self._content, self._text]).lstrip()
            return mark if answer.startswith(mark[: len(answer)]) else None
        return mark

    def _opening_is_clear(self, last: bool) -> bool:
        """Decide whether the answer begins with reasoning; False while that cannot be decided."""
        text = self._text.lstrip()
        if text.startswith(THINK_OPEN):
            self._part, self._text, self._trims = "reasoning", text[len(THINK_OPEN) :], True
        elif not last and THINK_OPEN.startswith(text):
            return False
        self._begun = True
        return True

    def _plain(self, text: str) -> Iterator[Delta]:
        if text:
            yield Delta(reasoning=text) if self._part == "reasoning" else Delta(content=text)

    def _tagged_call(self, call: ParsedCall, closed: bool) -> Iterator[Delta]:
        """Yield the call between two marks; an invalid one is shown to the agent as it was written."""
        if call.name is None and (closed or call.text.strip() != self._tagged.call_open):
            yield Delta(content=self._space + call.text)
        yield from self._valid([call])

    def _valid(self, calls: Sequence[ParsedCall]) -> Iterator[Delta]:
        """Yield the valid calls, or only the first one if only one is allowed."""
        first = len(self.calls)
        for position, call in enumerate(calls, first):
            if call.name is not None and not (self._format.one_call and position):
                name = call.id or self._call_id(position)
                yield Delta(call=ToolCall(position, name, call.name, call.arguments))

    def _calls_at_end(self, parser: WholeAnswerParser) -> Iterator[Delta]:
        """Yield the calls that the parser finds in the held text. What has been sent stays unchanged."""
        parsed = parser.parse(self._ids)
        attempts = [usable(call) for call in parsed.calls]
        calls = [call for call in attempts if call.name is not None]
        held, self._text = self._text, ""
        if not calls:  # The mark did not begin a call: the text is shown as it was written.
            yield from self._plain(held)
            return
        sent, content = "".join(self._content).strip(), parsed.content.strip()
        rest = content.removeprefix(sent) if content.startswith(sent) else ""
        text = "\n".join([rest, *(call.text for call in attempts if call.name is None)])
        if text.strip():
            yield Delta(content=text)
        yield from self._valid(calls)

    def _whole_answer(self, parser: WholeAnswerParser) -> Iterator[Delta]:
        """Yield an answer that could not be shown before its end."""
        parsed = parser.parse(self._ids)
        if parsed.reasoning:
            yield Delta(reasoning=parsed.reasoning)
        attempts = [usable(call) for call in parsed.calls]
        calls = [call for call in attempts if call.name is not None and self._format.tools]
        text = "\n".join([parsed.content, *(call.text for call in attempts if call not in calls)])
        if text := up_to_stop(text, self._format.stop).strip():
            yield Delta(content=text)
        yield from self._valid(calls)

    def _keep(self, deltas: Iterator[Delta]) -> list[Delta]:
        """Add pieces to the message while they are made."""
        kept = []
        for delta in deltas:
            if not (delta.content + delta.reasoning).isascii():
                delta = replace(delta, content=escaped(delta.content), reasoning=escaped(delta.reasoning))
            if delta.call is not None:
                self.calls.append(delta.call)
                self._resumes = bool(self._content)
            if delta.content:
                if self._resumes:  # Text before and after a call must not run together.
                    delta, self._resumes = replace(delta, content=f"\n{delta.content}"), False
                self._content.append(delta.content)
            self._reasoning += filter(None, [delta.reasoning])
            kept.append(delta)
        return kept


def message_of(deltas: Sequence[Delta]) -> dict[str, Any]:
    """Return the assistant's message that consists of these pieces."""
    return _message(
        "".join(delta.content for delta in deltas),
        "".join(delta.reasoning for delta in deltas),
        [delta.call for delta in deltas if delta.call is not None],
    )


def _message(content: str, reasoning: str, calls: Sequence[ToolCall]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": content if content or not calls else None}
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = [call.as_message() for call in calls]
    return message


def _held_back(text: str, mark: str | None) -> int:
    """Return how many characters at the end must wait: a possible start of the mark, and white space before it."""
    if mark is None:
        return 0
    begun = next((n for n in range(min(len(mark) - 1, len(text)), 0, -1) if mark.startswith(text[-n:])), 0)
    settled = text[: len(text) - begun]
    return len(text) - len(settled.rstrip())
