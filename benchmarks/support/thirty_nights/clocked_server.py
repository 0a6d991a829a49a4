"""`python -m server` by a clock that another process sets: everything in the process that asks for the time gets it.

    python -m benchmarks.support.thirty_nights.clocked_server CLOCK serve --port 8000 ...

Pauses are real: sleeping and monotonic time are not changed.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from benchmarks.support.thirty_nights.clock import Clock


def main(clock: Path, arguments: list[str]) -> int:
    """Set this process's clock, then run the command."""
    now = Clock(clock).now
    time.time, time.time_ns = now, lambda: int(now() * 1e9)
    from server.__main__ import main as server  # Its modules take `time.time` as the default of their clocks.

    return server(arguments)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
