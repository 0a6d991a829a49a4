"""The registry of dialects. To add one, name its module here."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from server.api.access.errors import OPENAI, ErrorForm
from server.api.dialects.dialect import Dialect

MODULES: tuple[str, ...] = (
    "server.api.dialects.chat",
    "server.api.dialects.completions",
    "server.api.dialects.extras.tokens",
    "server.api.dialects.messages",
    "server.api.dialects.responses",
)
"""Modules with a `dialect`."""


def load() -> list[Dialect]:
    """Import the modules and return their dialects."""
    dialects: list[Dialect] = [import_module(module).dialect for module in MODULES]
    return dialects


def error_form(dialects: Sequence[Dialect], path: str) -> ErrorForm:
    """Return the form of errors on a path: the form of the dialect that owns the path, otherwise OpenAI's."""
    return next((dialect.errors for dialect in dialects if dialect.owns(path)), OPENAI)
