"""A clock that can be set, shared by processes through a file that holds its offset from the machine's clock."""

from __future__ import annotations

import mmap
import struct
import time
from pathlib import Path

_OFFSET = struct.Struct("d")
_machine = time.time


class Clock:
    """Shows the machine's time plus an offset, which any process may change."""

    def __init__(self, path: Path) -> None:
        """Open the clock; a new one shows the machine's time."""
        if not path.exists():
            path.write_bytes(_OFFSET.pack(0.0))
        with path.open("r+b") as file:
            self._offset = mmap.mmap(file.fileno(), _OFFSET.size)

    def now(self) -> float:
        """Return the time in Unix seconds."""
        return _machine() + float(_OFFSET.unpack(self._offset[:])[0])

    def set(self, at: float) -> None:
        """Set the clock, in Unix seconds; it may go back."""
        self._offset[:] = _OFFSET.pack(at - _machine())
