"""Says in one sentence why a command failed; an unexpected failure's traceback goes to a file."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from upturn import packages
from upturn.logs import debugging, safe_traceback

FILE = "errors.log"
"""Name of the file of tracebacks."""
_LIMIT_BYTES = 2**20
Explain = Callable[[BaseException], str | None]
"""Returns one sentence for an expected failure: what is wrong and what to do."""


def explain(error: BaseException) -> str | None:
    """Explain failures that every program may meet."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return packages.missing(error.name)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        return "this machine has too little memory"
    return None


def report(error: BaseException, program: str, known: Explain = explain, logs: Path | None = None) -> int:
    """Print why a program failed on stderr; return its exit code, 1.

    Args:
        error: the failure.
        program: the program's name.
        known: explains expected failures.
        logs: directory for the traceback of an unexpected failure; default: a temporary one.
    """
    sentence = known(error)
    if sentence is None:
        message = str(error).strip().partition("\n")[0]
        what = f"unexpected {type(error).__name__}" + (f": {message}" if message else "")
        sentence = f"{what}; the full traceback is in {_write(error, program, logs)}"
    if debugging():
        print(safe_traceback(error), file=sys.stderr)
    print(f"{program}: {sentence}", file=sys.stderr, flush=True)
    return 1


def _write(error: BaseException, program: str, logs: Path | None) -> Path:
    """Append the traceback, without messages that may quote a conversation, to the file; return the file."""
    text = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {program}\n{safe_traceback(error)}\n\n"
    for directory in (logs, Path(tempfile.gettempdir()) / "upturn-logs"):
        if directory is None:
            continue
        file = directory / FILE
        try:
            directory.mkdir(parents=True, exist_ok=True)
            if file.is_file() and file.stat().st_size > _LIMIT_BYTES:
                file.replace(file.with_suffix(".log.1"))
            with file.open("a") as lines:
                lines.write(text)
        except OSError:
            continue
        return file
    return Path("(no file could be written)")
