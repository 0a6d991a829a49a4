"""Sampled ids to the assistant's message, piece by piece: content, reasoning, tool calls (after step 3).

What is sent while an answer is sampled, put together, is exactly the message at its end: the agent will send it back,
and the record has to know it again.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from server.rendering.render import TextStream, Tokenizer, up_to_stop
from server.rendering.tool_calls import CALL_CLOSE, CALL_OPEN, THINK_CLOSE, THINK_OPEN

Part = Literal["content", "reasoning", "call"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call, whole."""

    position: int
    """Among the calls of its answer, from 0."""
    id: str
    name: str
    arguments: str
    """JSON, as the model wrote it."""

    def as_message(self) -> dict[str, Any]:
        """Return it as a message carries it."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an answer: of its text, of its reasoning, or a call."""

    content: str = ""
    reasoning: str = ""
    call: ToolCall | None = None


@dataclass(frozen=True, slots=True)
class Called:
    """One attempt at a call in a family's own form."""

    text: str
    """As the model wrote it."""
    name: str | None = None
    """None where it is no call."""
    arguments: str = "{}"
    """JSON."""
    id: str | None = None
    """Where the form has ids of its own."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a whole answer says."""

    content: str
    reasoning: str
    calls: list[Called]


class Grammar(Protocol):
    """How a model family writes its answers. The text is streamed by marks, calls come from a parser at the end."""

    call_open: str
    """What begins the calls; nothing from there on is shown before the end. Empty: nothing at all is."""
    alone: bool
    """A call is the whole answer."""

    def read(self, token_ids: list[int]) -> Reading:
        """Return what a whole answer says."""


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """How an answer is to be read."""

    stop: tuple[str, ...] = ()
    tools: bool = False
    """Tool calls are read out of the text."""
    reasons: bool = False
    """The answer may begin with reasoning."""
    begins: Part = "content"
    """What the prompt has opened already."""
    grammar: Grammar | None = None
    """The family's own form of calls; None is Hermes, JSON between tags."""
    one_call: bool = False
    """Only the first call counts."""


class AnswerReader:
    """Reads one answer while it is sampled."""

    def __init__(self, tokenizer: Tokenizer, form: AnswerFormat) -> None:
        self._stream = TextStream(tokenizer, form.stop)
        self._form = form
        self._blind = form.grammar is not None and not form.grammar.call_open
        """Nothing is known before the end."""
        self._ids: list[int] = []
        self._part: Part = form.begins
        self._text = ""
        """What has been decoded and not been passed on."""
        self._begun = form.begins == "call"
        """Something other than white space was read: reasoning can only come before it."""
        self._trims = False
        """White space that comes next stands between two parts and belongs to neither."""
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self.calls: list[ToolCall] = []

    def push(self, token_ids: Sequence[int]) -> list[Delta]:
        """Add ids; return what may be sent now."""
        self._ids.extend(token_ids)
        return [] if self._blind else self._read(self._stream.push(token_ids), last=False)

    def finish(self) -> list[Delta]:
        """Return what is left to send."""
        if self._blind:
            return self._kept(self._parsed())
        return self._read(self._stream.finish(), last=True)

    @property
    def message(self) -> dict[str, Any]:
        """The assistant's message so far."""
        content = "".join(self._content)
        message: dict[str, Any] = {"role": "assistant", "content": content if content or not self.calls else None}
        if self._reasoning:
            message["reasoning_content"] = "".join(self._reasoning)
        if self.calls:
            message["tool_calls"] = [call.as_message() for call in self.calls]
        return message

    def _read(self, text: str, *, last: bool) -> list[Delta]:
        self._text += text
        return self._kept(self._deltas(last))

    def _deltas(self, last: bool) -> Iterator[Delta]:
        while True:
            if self._form.reasons and not self._begun and not self._opens_with_reasoning(last):
                return
            if self._trims:
                self._text = self._text.lstrip()
                self._trims = not self._text
            thought_end = THINK_CLOSE if self._part == "reasoning" else None
            call_mark = self._call_mark()
            if self._part == "call":
                before, closed, after = self._text.partition(CALL_CLOSE)
                if not closed and not last:
                    return
                yield from self._call(before, closed)
                self._part, self._text = "content", after
            elif thought_end and thought_end in self._text:
                before, _, self._text = self._text.partition(thought_end)
                yield from self._plain(before.rstrip())
                self._part, closed = "content", thought_end
            elif call_mark and call_mark in self._text:
                before = self._text.partition(call_mark)[0].rstrip()
                yield from self._plain(before)
                self._text = self._text[len(before) :]
                if self._form.grammar is not None:
                    yield from self._calls_at_end(self._form.grammar) if last else ()
                    return
                self._part, self._text, self._begun = "call", self._text.partition(call_mark)[2], True
                continue
            else:
                held = 0 if last else max(_held(self._text, thought_end), _held(self._text, call_mark))
                settled = self._text[: len(self._text) - held]
                self._text = self._text[len(settled) :]
                yield from self._plain(settled)
                return
            if not closed:
                return
            self._begun = self._trims = True

    def _call_mark(self) -> str | None:
        """Return what would begin a call here."""
        grammar = self._form.grammar
        if not self._form.tools or self._part == "call":
            return None
        if grammar is None:
            return CALL_OPEN if self._part == "content" else None
        if grammar.alone:
            said = "".join([*self._content, self._text]).lstrip()
            return grammar.call_open if said.startswith(grammar.call_open[: len(said)]) else None
        return grammar.call_open

    def _opens_with_reasoning(self, last: bool) -> bool:
        """Decide how the answer begins; False while that is open."""
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

    def _call(self, text: str, closed: str) -> Iterator[Delta]:
        """Yield the call that the text is; what is none is shown to the agent as it was written."""
        if not text.strip() and not closed:
            return
        try:
            called = json.loads(text)
            name, arguments = called["name"], called.get("arguments", {})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            yield Delta(content=f"{CALL_OPEN}{text}{closed}")
            return
        written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        yield from self._calls([Called(text, str(name), written)])

    def _calls(self, calls: Sequence[Called]) -> Iterator[Delta]:
        """Yield calls that come now."""
        first = len(self.calls)
        for position, call in enumerate(calls, first):
            if call.name is not None and not (self._form.one_call and position):
                yield Delta(
                    call=ToolCall(position, call.id or f"call_{secrets.token_hex(12)}", call.name, call.arguments)
                )

    def _calls_at_end(self, grammar: Grammar) -> Iterator[Delta]:
        """Yield what the parser finds in the text that was held. What has been sent stays as it is."""
        reading = grammar.read(self._ids)
        calls = [call for call in reading.calls if call.name is not None]
        held, self._text = self._text, ""
        if not calls:  # It only looked like one: it is shown as it was written.
            yield from self._plain(held)
            return
        sent, said = "".join(self._content).strip(), reading.content.strip()
        rest = said.removeprefix(sent) if said.startswith(sent) else ""
        text = "\n".join([rest, *(call.text for call in reading.calls if call.name is None)])
        if text.strip():
            yield Delta(content=text)
        yield from self._calls(calls)

    def _parsed(self) -> Iterator[Delta]:
        """Yield an answer of which nothing was known before its end."""
        assert self._form.grammar is not None
        reading = self._form.grammar.read(self._ids)
        if reading.reasoning:
            yield Delta(reasoning=reading.reasoning)
        calls = [call for call in reading.calls if call.name is not None and self._form.tools]
        text = "\n".join([reading.content, *(call.text for call in reading.calls if call not in calls)])
        if text := up_to_stop(text, self._form.stop).strip():
            yield Delta(content=text)
        yield from self._calls(calls)

    def _kept(self, deltas: Iterator[Delta]) -> list[Delta]:
        """Add pieces to the message while they are made."""
        kept = []
        for delta in deltas:
            if delta.call is not None:
                self.calls.append(delta.call)
            self._content += filter(None, [delta.content])
            self._reasoning += filter(None, [delta.reasoning])
            kept.append(delta)
        return kept


def _held(text: str, mark: str | None) -> int:
    """Return how many characters at the end may not be sent yet: a mark's beginning, and white space before a mark."""
    if mark is None:
        return 0
    begun = next((n for n in range(min(len(mark) - 1, len(text)), 0, -1) if mark.startswith(text[-n:])), 0)
    settled = text[: len(text) - begun]
    return len(text) - len(settled.rstrip())
