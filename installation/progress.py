"""Runs one command of the installation, and prints a line at least every ten seconds while it runs."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

EVERY_S = 10
TOO_LATE = 124
"""The exit code of a command that ran out of time, as of `timeout`."""
_said = time.monotonic()
"""When the last line was printed, by whichever command: several short ones must not add up to a long silence."""


@dataclass(frozen=True)
class Ended:
    """A command that ended: its exit code and all that it printed."""

    code: int
    output: str

    @property
    def ok(self) -> bool:
        """Whether it succeeded."""
        return self.code == 0


def run(
    command: Sequence[str],
    doing: str,
    variables: Mapping[str, str],
    *,
    limit_s: float | None = None,
    quiet: bool = False,
    keep_open: Sequence[int] = (),
) -> Ended:
    """Run a command to its end, printing its lines (but not the names of installed packages) unless `quiet`.

    Args:
        command: the program and its arguments.
        doing: what it does, for the line that is printed when it prints nothing.
        variables: its environment.
        limit_s: end it after this time.
        quiet: print only the line that says it is still running.
        keep_open: file descriptors that it inherits, so that a lock outlives this process.
    """
    started = time.monotonic()
    child = subprocess.Popen(
        command, env=dict(variables), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=keep_open
    )
    assert child.stdout is not None
    pipe, rest = child.stdout.fileno(), b""
    output: list[str] = []
    downloads: dict[str, str] = {}
    try:
        while True:
            wait = max(0.0, _said + EVERY_S - time.monotonic())
            if limit_s is not None:
                wait = min(wait, max(0.0, started + limit_s - time.monotonic()))
            ready, _, _ = select.select([pipe], [], [], wait)
            now = time.monotonic()
            if ready:
                piece = os.read(pipe, 65536)
                *lines, rest = (rest + piece).split(b"\n")
                for line in [*lines, *([rest] if not piece and rest else [])]:
                    text = line.decode(errors="replace").rsplit("\r", 1)[-1].rstrip()
                    output.append(text)
                    _note(text, downloads)
                    if not quiet and text and not re.match(r" [+~-] ", text):
                        _say(text)
                if not piece:
                    return Ended(child.wait(), "\n".join(output))
            elif limit_s is not None and now >= started + limit_s:
                return Ended(TOO_LATE, "\n".join(output))
            if now >= _said + EVERY_S:
                waiting = f"; still downloading {', '.join(downloads.values())}" if downloads else ""
                _say(f"{now - started:.0f} s: {doing}{waiting}")
    finally:
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        child.stdout.close()
        sys.stdout.flush()


def _say(text: str) -> None:
    global _said
    print(f"  {text}", flush=True)
    _said = time.monotonic()


def _note(text: str, downloads: dict[str, str]) -> None:
    """Keep track of uv's downloads, which it prints as they begin and end."""
    if begun := re.match(r"Downloading (\S+) (\(.+\))", text):
        downloads[begun[1]] = f"{begun[1]} {begun[2]}"
    elif ended := re.match(r" ?Downloaded (\S+)", text):
        downloads.pop(ended[1], None)
