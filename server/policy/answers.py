"""Sampled ids to the assistant's message, piece by piece: content, reasoning, tool calls (after step 3).

What is sent while an answer is sampled, put together, is exactly the message at its end: the agent will send it back,
and the record has to know it again.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from server.policy.render import TextStream, Tokenizer
from server.policy.tools import CALL_CLOSE, CALL_OPEN, THINK_CLOSE, THINK_OPEN

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
class AnswerFormat:
    """How an answer is to be read."""

    stop: tuple[str, ...] = ()
    tools: bool = False
    """Tool calls are read out of the text."""
    reasons: bool = False
    """The answer may begin with reasoning."""
    begins: Part = "content"
    """What the prompt has opened already."""


class AnswerReader:
    """Reads one answer while it is sampled."""

    def __init__(self, tokenizer: Tokenizer, form: AnswerFormat) -> None:
        self._stream = TextStream(tokenizer, form.stop)
        self._form = form
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
        return self._read(self._stream.push(token_ids), last=False)

    def finish(self) -> list[Delta]:
        """Return what is left to send."""
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
        return [self._kept(delta) for delta in self._deltas(last)]

    def _deltas(self, last: bool) -> Iterator[Delta]:
        while True:
            may_reason = self._form.reasons and self._part == "content" and not self._begun
            if may_reason and not self._opens_with_reasoning(last):
                return
            if self._trims:
                self._text = self._text.lstrip()
                self._trims = not self._text
            mark = self._mark()
            before, found, after = self._text.partition(mark) if mark else (self._text, "", "")
            if self._part == "call":
                if not found and not last:
                    return
                yield from self._call(before, found)
            elif found:
                yield from self._plain(before.rstrip())
            else:
                held = 0 if last else _held(self._text, mark)
                settled = self._text[: len(self._text) - held]
                self._text = self._text[len(settled) :]
                yield from self._plain(settled)
                return
            self._text = after
            if not found:
                return
            self._part = "call" if mark == CALL_OPEN else "content"
            self._begun, self._trims = True, self._part != "call"

    def _mark(self) -> str | None:
        """Return the mark that ends the present part."""
        if self._part == "reasoning":
            return THINK_CLOSE
        if self._part == "call":
            return CALL_CLOSE
        return CALL_OPEN if self._form.tools else None

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
        except (ValueError, TypeError, KeyError, AttributeError):
            yield Delta(content=f"{CALL_OPEN}{text}{closed}")
            return
        written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        yield Delta(call=ToolCall(len(self.calls), f"call_{secrets.token_hex(12)}", str(name), written))

    def _kept(self, delta: Delta) -> Delta:
        if delta.call is not None:
            self.calls.append(delta.call)
        self._content += filter(None, [delta.content])
        self._reasoning += filter(None, [delta.reasoning])
        return delta


def _held(text: str, mark: str | None) -> int:
    """Return how many characters at the end may not be sent yet: a mark's beginning, and white space before a mark."""
    if mark is None:
        return 0
    begun = next((n for n in range(min(len(mark) - 1, len(text)), 0, -1) if mark.startswith(text[-n:])), 0)
    settled = text[: len(text) - begun]
    return len(text) - len(settled.rstrip())
