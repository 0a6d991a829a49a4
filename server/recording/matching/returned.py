"""Ids that clients send back, each of which names a recorded turn: of tool calls, of items, and of responses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

MOST = 32
"""Different turns that are looked up, the newest first."""
_CALL = re.compile(r"\bcall_([0-9a-f]{24})_[0-9]+\b")
_ANY = re.compile(r"(?:[a-z]+[_-])?turn_([0-9a-f]{24})(?:_[0-9]+)?", re.ASCII)


def call_id(turn_id: str, position: int) -> str:
    """Return the id of a tool call that names its turn: SDKs keep it, and nothing else of an answer is so safe."""
    return f"call_{turn_id.removeprefix('turn_')}_{position}"


def turn_of(name: str) -> str | None:
    """Return the turn that an id names: of a completion, message, response, output item, tool call, or the turn itself.

    None if it is no such id.
    """
    found = _ANY.fullmatch(name) or _CALL.fullmatch(name)
    return f"turn_{found[1]}" if found else None


def turns_in(messages: Sequence[dict[str, Any]], more: Iterable[str] = ()) -> tuple[dict[str, int], frozenset[str]]:
    """Return the turns that a conversation names, the newest first, each with the position of the answer it is.

    Ids count where they come back: in tool calls, in their results, and in answers into which a framework wrote its
    calls as text. The second value contains the turns that nothing but such a text names: it may also quote another
    conversation.

    Args:
        messages: the conversation.
        more: ids that the request contains outside its messages, the newest first. They name its end.
    """
    turns = dict.fromkeys((turn for name in more if (turn := turn_of(name))), len(messages))
    sent_back = set(turns)
    answer = len(messages)
    for position in range(len(messages) - 1, -1, -1):
        message = messages[position]
        written = _CALL.findall(_text(message.get("content"))) if message.get("role") == "assistant" else []
        names = list(_ids(message))
        if not names and not written:
            continue
        if position < answer:
            answer = next((at for at in range(position, -1, -1) if messages[at].get("role") == "assistant"), position)
        sent_back.update(f"turn_{name}" for name in names)
        for name in (*reversed(names), *reversed(written)):
            turns.setdefault(f"turn_{name}", answer)
        if len(turns) >= MOST:
            break
    kept = dict(list(turns.items())[:MOST])
    return kept, frozenset(kept.keys() - sent_back)


def _ids(message: dict[str, Any]) -> Iterator[str]:
    if message.get("role") == "assistant":
        for call in message.get("tool_calls") or []:
            yield from _CALL.findall(str(call.get("id") or ""))
    else:
        yield from _CALL.findall(str(message.get("tool_call_id") or ""))


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""
