"""Log lines of every program: their form, the request that they belong to, and what they leave out.

Exceptions quote values: the parameters of a statement, the text that could not be parsed. Log lines therefore give an
exception's class and the place in the code, and its message only where it cannot hold text of a conversation
(`describe`). Other libraries log warnings only: at lower levels some of them log whole requests.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Literal, TextIO, get_args

Level = Literal["debug", "info", "warning", "error"]
Form = Literal["text", "json"]
LEVELS: tuple[Level, ...] = get_args(Level)

LEVEL_VARIABLE, FORM_VARIABLE = "UPTURN_LOG_LEVEL", "UPTURN_LOG_FORMAT"
"""The server's settings of the same names, which its child processes read too."""
OWN = ("upturn", "server", "learner", "env_adapters", "migrations")
"""Loggers of this project; the level applies to them and their children."""
_QUOTE_NOTHING = frozenset({"sqlite3", "httpx2", "httpcore2", "aiohttp", "asyncio"})
"""Packages whose messages name hosts, files, tables and columns, never values."""

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The request being answered, if any; threads and tasks started for it inherit it."""


def configure(level: Level | None = None, form: Form | None = None, *, messages: bool = False) -> None:
    """Send this process's log lines to stderr.

    Args:
        level: lowest level that this project's loggers write; default: `UPTURN_LOG_LEVEL`, or `info`.
        form: lines for people, or JSON objects; default: `UPTURN_LOG_FORMAT`, or `text`.
        messages: whether exceptions are logged with their messages. Only for a process that never sees the text of a
            conversation.
    """
    level = level or _from(os.environ.get(LEVEL_VARIABLE), LEVELS, "info")
    form = form or _from(os.environ.get(FORM_VARIABLE), get_args(Form), "text")
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, _Stderr):
            root.removeHandler(handler)
    handler = _Stderr()
    handler.setFormatter(_JsonLines(messages) if form == "json" else _TextLines(messages))
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for name in OWN:
        logging.getLogger(name).setLevel(level.upper())


def log_variables(level: Level, form: Form) -> dict[str, str]:
    """Return the environment variables with which a child process logs in the same way."""
    return {LEVEL_VARIABLE: level, FORM_VARIABLE: form}


def debugging() -> bool:
    """Whether this process logs at the level `debug`."""
    return logging.getLogger(OWN[0]).isEnabledFor(logging.DEBUG) or os.environ.get(LEVEL_VARIABLE) == "debug"


def log_failure(context: Mapping[str, Any]) -> None:
    """Log what asyncio reports about a task that failed unnoticed, without the task's representation."""
    error = context.get("exception")
    if isinstance(error, BaseException):
        logging.getLogger("upturn").error("background work failed", exc_info=error)
    else:
        logging.getLogger("upturn").error("background work failed: %s", context.get("message"))


def describe(error: BaseException) -> str:
    """Return an exception's class, with its message only if that cannot quote a conversation.

    A class of this project whose messages are safe says so with the class attribute `safe_to_log`.
    """
    original = getattr(error, "orig", None)
    if isinstance(original, BaseException):  # The driver's error inside SQLAlchemy's.
        return describe(original)
    kind, message = type(error).__name__, _first_line(str(error))
    package = type(error).__module__.partition(".")[0]
    if package == "psycopg":
        # A refused statement's message quotes values; a failed connection has no state.
        state = getattr(error, "sqlstate", None)
        return f"{kind} (SQLSTATE {state})" if state else f"{kind}: {message}"
    if isinstance(error, OSError) and package == "builtins":
        if error.errno is None:
            return kind
        file = f": {error.filename!r}" if error.filename else ""
        return f"{kind}: {error.strerror}{file}"
    if package in _QUOTE_NOTHING or isinstance(error, ImportError) or getattr(error, "safe_to_log", False):
        return f"{kind}: {message}" if message else kind
    return kind


def safe_traceback(error: BaseException) -> str:
    """Return a traceback in Python's form in which `describe` replaces each exception's message."""
    before = ""
    if error.__cause__ is not None:
        before = f"{safe_traceback(error.__cause__)}\n\nThe above exception was the direct cause of the following:\n\n"
    elif error.__context__ is not None and not error.__suppress_context__:
        before = f"{safe_traceback(error.__context__)}\n\nDuring its handling, another exception occurred:\n\n"
    inner = "".join(f"\n\nIn the group:\n\n{safe_traceback(one)}" for one in getattr(error, "exceptions", ()))
    frames = "".join(traceback.format_tb(error.__traceback__))
    return f"{before}Traceback (most recent call last):\n{frames}{describe(error)}{inner}"


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to whatever `sys.stderr` is at the time."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


class _Lines(logging.Formatter):
    """What both forms share."""

    def __init__(self, messages: bool) -> None:
        super().__init__()
        self._messages = messages

    def text_of(self, record: logging.LogRecord) -> str:
        """Return the message, with `describe` in place of exceptions."""
        values = record.args
        if isinstance(values, tuple):
            values = tuple(self._value(value) for value in values)
        elif isinstance(values, Mapping):
            values = {name: self._value(value) for name, value in values.items()}
        text = str(self._value(record.msg))
        return text % values if values else text

    def traceback_of(self, record: logging.LogRecord) -> str | None:
        """Return the traceback of the logged exception."""
        found: tuple[type[BaseException], BaseException, TracebackType | None] | Any = record.exc_info
        if not found or found[1] is None:
            return None
        return self.formatException(found) if self._messages else safe_traceback(found[1])

    def _value(self, value: Any) -> Any:
        return describe(value) if isinstance(value, BaseException) and not self._messages else value


class _TextLines(_Lines):
    """`2026-01-31 12:00:00,123 INFO upturn.gate [req_1f2e]: message`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and the traceback if there is one."""
        known = request_id.get()
        where = f" [{known}]" if known else ""
        lines = [f"{self.formatTime(record)} {record.levelname} {record.name}{where}: {self.text_of(record)}"]
        return "\n".join([*lines, *filter(None, [self.traceback_of(record)])])


class _JsonLines(_Lines):
    """One JSON object per line: time, level, logger, message, request_id, traceback, and the record's `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object on one line."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self.text_of(record),
            "request_id": request_id.get(),
            **getattr(record, "fields", {}),
            "traceback": self.traceback_of(record),
        }
        return json.dumps({name: value for name, value in line.items() if value is not None}, default=str)


def _from(value: str | None, known: tuple[Any, ...], otherwise: str) -> Any:
    return value if value in known else otherwise


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
