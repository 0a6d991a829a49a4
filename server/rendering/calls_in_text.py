"""Calls between two marks in an answer's text: where each ends, and whether agents can use it."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, replace

from server.rendering.json_text import arguments_of, escaped
from server.rendering.model_family import ParsedCall, TaggedCalls

MOST_CLOSINGS = 16
"""Closing marks inside an open string that are skipped, beyond which the first one ends the call."""
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NOT_A_CALL = (ValueError, TypeError, KeyError, AttributeError, RecursionError)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FoundCall:
    """A call in a text."""

    call: ParsedCall
    """Without a name if it is not a call; its `text` is what the model wrote."""
    closed: bool
    """Its closing mark was written."""
    rest: str
    """The text after it."""


class CallText:
    """The growing text of one call, after its opening mark.

    Args:
        form: the marks, and how to parse what is between them.
    """

    def __init__(self, form: TaggedCalls) -> None:
        self._form = form
        self._ends: list[int] = []
        """Positions of the closing marks that have been tried."""

    def read(self, text: str, *, last: bool) -> FoundCall | None:
        """Return the call at the beginning of a text, or None while its end may be missing.

        A closing mark inside a JSON string does not end a call. If that string never ends, the first mark does.

        Args:
            text: all text after the opening mark so far.
            last: the text is complete.
        """
        mark = self._form.call_close
        while len(self._ends) < MOST_CLOSINGS:
            end = text.find(mark, self._ends[-1] + len(mark) if self._ends else 0)
            if end < 0 and not last:
                return None
            call = self._parsed(text if end < 0 else text[:end])
            if call.name is not None or (end < 0 and not self._ends):
                return self._found(call, text, end)
            if end >= 0:
                self._ends.append(end)
            if end < 0 or '"' not in _STRING.sub("", text[:end]):
                break
        return self._found(ParsedCall(None), text, self._ends[0])

    def _found(self, call: ParsedCall, text: str, end: int) -> FoundCall:
        mark = self._form.call_close
        inside, closed, rest = (text, "", "") if end < 0 else (text[:end], mark, text[end + len(mark) :])
        return FoundCall(replace(call, text=f"{self._form.call_open}{inside}{closed}"), end >= 0, rest)

    def _parsed(self, text: str) -> ParsedCall:
        try:
            return usable(self._form.parse_call(text))
        except _NOT_A_CALL:
            return ParsedCall(None)
        except Exception:  # A parser that fails must not lose an answer: the call is shown as it was written.
            logger.exception("cannot parse a call of %d characters", len(text))
            return ParsedCall(None)


def calls_in(form: TaggedCalls, text: str) -> tuple[list[ParsedCall], str]:
    """Return all calls in a whole text, and the text around them."""
    calls: list[ParsedCall] = []
    around: list[str] = []
    while text:
        before, opened, text = text.partition(form.call_open)
        around.append(before.strip())
        if opened and (found := CallText(form).read(text, last=True)) is not None:
            calls.append(found.call)
            text = found.rest
    return calls, "\n".join(filter(None, around))


def usable(call: ParsedCall) -> ParsedCall:
    """Return a call with a name and an object of arguments; without a name if agents could not use it."""
    name = call.name
    if not isinstance(name, str) or not name.strip() or escaped(name) != name:
        return replace(call, name=None)
    try:
        return replace(call, arguments=arguments_of(call.arguments))
    except ValueError:
        return replace(call, name=None)
