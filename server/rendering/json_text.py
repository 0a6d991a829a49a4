"""JSON as models write it, and JSON that every client can read.

A model may write half of a surrogate pair as an escape, which Python reads into text that has no UTF-8. Where such
text becomes bytes or tokens again, the half is an escape again.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

DEEPEST = 64
"""Maximum nesting of a call's arguments, far below Python's limit for recursion."""
_HALF = re.compile("[\ud800-\udfff]")


def escaped(text: str) -> str:
    """Return a text in which halves of surrogate pairs are JSON escapes."""
    return text if text.isascii() else _HALF.sub(lambda half: f"\\u{ord(half[0]):04x}", text)


def without_halves(text: str) -> str:
    """Return a text with a replacement character for each half of a surrogate pair."""
    return text if text.isascii() else _HALF.sub("\ufffd", text)


def write_json(value: Any) -> str:
    """Return a value as JSON that UTF-8 can encode.

    Raises:
        ValueError: the value contains a number that is not finite, or is nested too deeply.
    """
    try:
        return escaped(json.dumps(value, ensure_ascii=False, allow_nan=False))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_json(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is not JSON, such as `NaN`, or is nested too deeply.
    """
    try:
        return json.loads(text, parse_constant=_not_json)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def arguments_of(value: Any) -> str:
    """Return the arguments of a call as the JSON text of an object.

    Args:
        value: what the model wrote: an object, an object as JSON in a string, or None for no arguments.

    Raises:
        ValueError: it is anything else, or an agent could not read it.
    """
    if isinstance(value, str):
        value = read_json(value)
    if value is None:
        return "{}"
    if not isinstance(value, dict):
        raise ValueError("the arguments are not an object")
    if _is_deeper(value, DEEPEST):
        raise ValueError("nested too deeply")
    return write_json(value)


def _is_deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    inside = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(item, levels - 1) for item in inside)


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
