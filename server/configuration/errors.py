"""Explains in one line per mistake why settings are wrong."""

from __future__ import annotations

import re
from typing import Any, get_args

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings

from server.configuration.flags import flags_of, suggestion

SHOWN = 40
"""Maximum length of an invalid value quoted in the message, in characters."""


def explain(error: ValidationError, settings: type[BaseSettings]) -> list[str]:
    """Return a line for each wrong value and each unknown key, with a suggestion for the key."""
    return [_line(detail, settings) for detail in error.errors(include_url=False)]


def _line(detail: ErrorDetails, settings: type[BaseSettings]) -> str:
    path = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        known = [flag.path for flag in flags_of(settings)]
        sections = {path.rpartition(".")[0] for path in known} - {""}
        return f"{path}: no such setting{suggestion(path, [*known, *sections])}"
    message = detail["msg"].removeprefix("Value error, ")
    value = detail["input"]
    short = isinstance(value, str | int | float) and len(str(value)) <= SHOWN
    shown = f", not {value!r}" if short and not _is_secret(detail["loc"], settings) else ""
    if detail["type"] == "literal_error" and isinstance(value, str):
        shown += suggestion(value, re.findall(r"'([^']+)'", detail["ctx"]["expected"]))
    return f"{path}: {message}{shown}" if path else message


def _is_secret(path: tuple[int | str, ...], settings: type[BaseModel]) -> bool:
    """Return whether a value's setting is a secret, which no message quotes."""
    kind: Any = settings
    for name in path:
        fields = kind.model_fields if isinstance(kind, type) and issubclass(kind, BaseModel) else {}
        if name not in fields:
            return False
        kind = fields[str(name)].annotation
    return kind is SecretStr or SecretStr in get_args(kind)
