"""Parses the tags of deep search, `<search>` and `<answer>`, and the same actions in other forms; and its tools."""

from __future__ import annotations

import re
from typing import Any

from env_adapters.answer import blocks, hint, said
from env_adapters.answer import read_action as read_answer
from env_adapters.dress import as_json

ANSWER_CHARS = 500


def _tool(name: str, argument: str, description: str) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "additionalProperties": False,
                "required": [argument],
                "properties": {argument: {"type": "string"}},
            },
        },
    }


TOOLS = [
    _tool("search", "query", "Show the passages that fit some words best."),
    _tool("answer", "text", "Answer the question in a few words, which ends the episode."),
]
_ARGUMENT = {"search": "query", "answer": "text"}
DRESS_TAGS = ("action", "act", "command", "tool_call")
"""Tags around an action; `<answer>` is an action here."""


def read_action(text: str) -> tuple[str, str]:
    """Return the action of an answer (`search`, `answer` or empty) and its words.

    The first tag counts, and its end may be missing, since a stop sequence cuts it off. Without tags,
    `search[words]`, `answer[words]` and tool calls written as JSON are understood.
    """
    tagged = (_tag(part) for part in blocks(text, DRESS_TAGS))
    return next(filter(None, tagged), None) or read_answer(text, _tag_or_brackets, call=text_of) or ("", "")


def _tag(text: str) -> tuple[str, str] | None:
    if as_json(text) is not None:
        return None  # Its fields are read one by one: a thought may have a tag.
    found = re.search(r"<\s*(search|answer)\s*>(.*?)(<\s*/|$)", text, re.DOTALL | re.IGNORECASE)
    words = " ".join(found[2].split()).strip('`*"') if found else ""
    if found and not words and found[2].strip():
        words = found[2].strip()  # Only signs, which no passage has.
    return (found[1].lower(), words) if found and words else None


def _tag_or_brackets(text: str) -> tuple[str, str] | None:
    found = re.fullmatch(r"(search|answer|finish)\s*(?:\[(.+)\]|\((?:\w+\s*=\s*)?(['\"])(.+)\3\))", text, re.IGNORECASE)
    if found is None:
        return _tag(text)
    return ("search" if found[1].lower() == "search" else "answer"), (found[2] or found[4]).strip("'\" ")


def text_of(name: str, arguments: dict[str, Any], environment: str = "search") -> str:
    """Return a tool call as a tag.

    Raises:
        ValueError: the tool does not exist, or its arguments do not fit.
    """
    if name not in _ARGUMENT:
        raise ValueError(f"{environment} has no tool {name!r}; it has search and answer")
    words = arguments.get(_ARGUMENT[name])
    if not isinstance(words, str):
        raise ValueError(f"{name} takes a text {_ARGUMENT[name]!r}, not {arguments!r}")
    return f"<{name}>{words}</{name}>"


def suggestion(text: str) -> str:
    """Return a hint with the tag that was probably meant, or an empty text."""
    found = re.match(r"<?(search|find|look up|query|answer|final answer)\b[^\w<]*(.*)", said(text), re.IGNORECASE)
    if found is None or not 0 < len(words := found[2].partition("<")[0].strip(" \"'`*>)]")) <= ANSWER_CHARS:
        return ""
    tag = "answer" if "answer" in found[1].lower() else "search"
    return hint(f"<{tag}>{words}</{tag}>")
