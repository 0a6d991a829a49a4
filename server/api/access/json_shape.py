"""Bounds the structure of a JSON body while it arrives, since parsing holds the event loop for each value of it."""

from __future__ import annotations

import re

from server.errors import BadRequest, TooLarge

MOST_VALUES = 250_000
"""Maximum number of values in a body: the token ids of a long context fit."""
MOST_OBJECTS = 50_000
"""Maximum number of objects and arrays in a body: 10,000 messages with several parts each fit."""
MOST_LEVELS = 128
"""Maximum depth of nesting."""

_ESCAPED = re.compile(rb"\\.", re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class JsonShape:
    """Counts values and levels outside of strings. Text that is not JSON is counted all the same, and harmless.

    Python's parser also reads UTF-16 and UTF-32, where a byte of a letter can look like a quotation mark. JSON in them
    always has a byte 0, which JSON in UTF-8 never has.
    """

    def __init__(self) -> None:
        self._in_string = False
        self._escapes = False
        """The last chunk ended with the backslash of an escape."""
        self._values = self._objects = self._level = 0

    def add(self, chunk: bytes) -> None:
        """Count the next bytes of a body.

        Raises:
            TooLarge: the body has too many values.
            BadRequest: it is nested too deeply, or not in UTF-8.
        """
        if b"\0" in chunk:
            raise BadRequest("the request body must be JSON in UTF-8")
        if self._escapes:
            chunk, self._escapes = chunk[1:], not chunk
        if b"\\" in chunk:
            chunk = _ESCAPED.sub(b"", chunk)
            self._escapes = chunk.endswith(b"\\")
        parts = chunk.split(b'"')  # In turn outside and inside of strings.
        outside = b"".join(parts[self._in_string :: 2])
        self._in_string ^= len(parts) % 2 == 0
        brackets = outside.translate(None, _NOT_BRACKETS)
        opened = brackets.count(b"[") + brackets.count(b"{")
        self._objects += opened
        self._values += opened + outside.count(b",")
        if self._values > MOST_VALUES or self._objects > MOST_OBJECTS:
            raise TooLarge(
                f"the request body has too many values: at most {MOST_VALUES} are supported, "
                f"and at most {MOST_OBJECTS} objects and arrays"
            )
        if self._level + opened <= MOST_LEVELS:  # Too few to be nested too deeply.
            self._level += opened - (len(brackets) - opened)
            return
        for bracket in brackets:
            self._level += 1 if bracket in b"[{" else -1
            if self._level > MOST_LEVELS:
                raise BadRequest(f"the request body is nested more than {MOST_LEVELS} levels deep")
