"""Checks a request's fields against the table, before anything else is done with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel

from server.api.dialects.fields.table import FIELDS, Field
from server.errors import BadRequest

WARNING = "x-upturn-warning"
"""Header of an answer that says what of the request had no effect."""
MOST_UNKNOWN = 32
"""Maximum number of unknown fields in a request: each is compared with every known name."""
LONGEST = 64
"""Longest unknown name that is compared or shown, in characters."""
_SIMILAR = 0.8
"""Least similarity (`difflib.SequenceMatcher.ratio`) of a mistyped name and the intended one."""


def check(dialect: str, body: BaseModel) -> list[str]:
    """Check the fields of a request that its caller has set.

    Args:
        dialect: the table's name of the dialect.
        body: the request. A null field counts as absent.

    Returns:
        Warnings for the header `x-upturn-warning`: unknown fields, which have no effect.

    Raises:
        BadRequest: a field is not supported, is mistyped, or belongs to another dialect.
    """
    known = FIELDS[dialect]
    unknown: dict[str, Any] = {}
    for name in sorted(body.model_fields_set):
        value, field = getattr(body, name), known.get(name)
        if value is None:
            continue
        if field is None:
            unknown[name] = value
        elif field.use == "refused" and not _has_no_effect(field, value):
            raise unsupported(name, field.note)
    if len(unknown) > MOST_UNKNOWN:
        raise BadRequest(f"the request has {len(unknown)} unknown fields", code="unknown_parameter")
    for name, value in unknown.items():
        _check_unknown(dialect, known, name, value)
    return [f"ignored unknown fields: {', '.join(_shown(name) for name in unknown)}"] if unknown else []


def unsupported(name: str, note: str = "") -> BadRequest:
    """Return the error for a field that this server does not support."""
    said = f"this server does not support {name!r}" + (f": {note}" if note else "")
    return BadRequest(said, param=name, code="unsupported_parameter")


def _has_no_effect(field: Field, value: Any) -> bool:
    return not value or any(type(value) in (type(other), float) and value == other for other in field.accepts)


def _check_unknown(dialect: str, known: Mapping[str, Field], name: str, value: Any) -> None:
    """Refuse an unknown field that its caller seems to rely on, or that is not JSON."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError as error:
        raise BadRequest(f"{_shown(name)} contains a number that is not finite", param=_shown(name)) from error
    elsewhere = [other for other, fields in FIELDS.items() if name in fields and fields[name].use == "honored"]
    if elsewhere:
        raise _unknown(name, f"{name!r} is a field of {', '.join(elsewhere)}, not of {dialect}")
    plain = {_plain(each): each for each, field in known.items() if field.use == "honored"}
    if len(name) <= LONGEST and (near := get_close_matches(_plain(name), plain, n=1, cutoff=_SIMILAR)):
        raise _unknown(name, f"unknown field {_shown(name)!r}: did you mean {plain[near[0]]!r}?")


def _unknown(name: str, message: str) -> BadRequest:
    return BadRequest(message, param=_shown(name), code="unknown_parameter")


def _plain(name: str) -> str:
    """Return a name without the differences of spelling styles: `maxTokens`, `max-tokens` and `max_tokens` agree."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _shown(name: str) -> str:
    """Return a name as a header can hold it."""
    return ascii(name)[1:-1][:LONGEST]
