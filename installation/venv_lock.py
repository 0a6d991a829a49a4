"""Locks around `.venv`: one process changes it at a time, and none rebuilds it while a command runs from it.

They are files beside `.venv`. The kernel frees a lock when the last process that holds its file open ends, however it
ends; an installer that outlives a killed `run.py` keeps the lock.
"""

from __future__ import annotations

import os
import time
from pathlib import Path


class Lock:
    """An advisory lock on a file, held by this process and by children that inherit `file`."""

    def __init__(self, path: Path) -> None:
        self.file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)

    def take(self, *, shared: bool = False, wait_s: float | None = None) -> bool:
        """Take it, alone or shared; return False if others still have it after `wait_s` (by default, wait on)."""
        import fcntl  # Not on Windows, which is refused before.

        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        if wait_s is None:
            fcntl.flock(self.file, kind)
            return True
        until = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(self.file, kind | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if time.monotonic() >= until:
                    return False
                time.sleep(0.05)

    def free(self) -> None:
        """Let others take it."""
        import fcntl

        fcntl.flock(self.file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Free it for good."""
        os.close(self.file)

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
