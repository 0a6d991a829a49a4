"""The server, restarted after each kill, as a service manager does."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from clients.demo.server_process import ServerProcess, free_port


class Served:
    """A server with a clock of its own, for the duration of a `with` block."""

    def __init__(self, data_dir: Path, clock: Path, flags: list[str]) -> None:
        program = ("-m", "benchmarks.support.thirty_nights.clocked_server", str(clock))
        self._port = free_port()
        self._new = lambda: ServerProcess(data_dir, self._port, flags, lambda *_: None, program)
        self.url = f"http://127.0.0.1:{self._port}"
        self.up = threading.Event()
        """Set while the server answers."""
        self.kills = 0

    def __enter__(self) -> Self:
        self._process = self._new().__enter__()
        self.up.set()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.up.clear()
        self._process.__exit__(kind, error, traceback)

    def kill(self) -> None:
        """Kill the server (`kill -9`) and start it again."""
        self.up.clear()
        self.kills += 1
        self._process.kill()
        self.__enter__()
