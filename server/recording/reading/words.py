"""Text for the index's search: what is indexed of a turn, and the phrase that a query means.

A query finds its words in their order, whatever their case, accents, and the marks between them. Scripts that are
written without spaces are searched by character.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

BOUNDARY = "\ue000"
"""A word of its own between two messages, which no query contains: a phrase never spans both."""
_SPACELESS = re.compile("([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff])")
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def phrase_of(query: str) -> str | None:
    """Return the FTS5 expression that finds the words of a query in this order; None if it has no words."""
    text = _words(query.replace(BOUNDARY, " "))
    if not any(character.isalnum() for character in text):
        return None
    return '"' + text.replace('"', '""') + '"'


def text_of_turn(messages: Sequence[Any], answer: Any) -> str:
    """Return what can be found of a turn: the text of its new messages and of its answer."""
    said = [" ".join(_texts(message)) for message in (*messages, answer) if isinstance(message, dict)]
    return _words(f" {BOUNDARY} ".join(said))


def _words(text: str) -> str:
    return _SPACELESS.sub(r" \1 ", _UNSTORABLE.sub(" ", text))


def _texts(message: dict[str, Any]) -> Iterator[str]:
    """Yield the texts of a message: content, thoughts, and the names and arguments of its calls."""
    content = message.get("content")
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        yield from (part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str))
    for name in ("reasoning_content", "reasoning", "name"):
        if isinstance(message.get(name), str):
            yield message[name]
    for call in message.get("tool_calls") or ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            yield from (value for name in ("name", "arguments") if isinstance(value := function.get(name), str))
