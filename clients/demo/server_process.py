"""Runs the server as a child process: starts it, waits until it is ready, and stops it with all its children."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx2

START_S = 900.0  # A large model takes minutes to load.
STOP_S = 30.0
PR_SET_PDEATHSIG = 1
ROOT = Path(__file__).parents[2]


class ServerProcess:
    """`python -m server serve` for the duration of a `with` block."""

    def __init__(
        self,
        data_dir: Path,
        port: int,
        flags: list[str],
        on_wait: Callable[[float, str], None],
        program: Sequence[str] = ("-m", "server"),
    ) -> None:
        """Prepare the command; nothing starts before the block.

        Args:
            data_dir: the server's data directory.
            port: an unused port.
            flags: further flags of `serve`.
            on_wait: receives the seconds waited so far, and the newest line of the log.
            program: Python's arguments before `serve`.
        """
        self.url = f"http://127.0.0.1:{port}"
        self.log = data_dir / "logs" / "server.log"
        self._command = [
            sys.executable,
            *program,
            "serve",
            "--port",
            str(port),
            "--data-dir",
            str(data_dir),
            *flags,
        ]
        self._on_wait = on_wait
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            # A new session: Ctrl-C reaches only the demo, which then shuts the server down.
            self._process = subprocess.Popen(
                self._command,
                stdout=output,
                stderr=output,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=_stop_with_parent,
            )
        try:
            self._wait()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def kill(self) -> None:
        """Kill the server (`kill -9`); it stops nothing in order."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def _wait(self) -> None:
        assert self._process is not None
        began = time.monotonic()
        while time.monotonic() - began < START_S:
            if self._process.poll() is not None:
                raise RuntimeError(f"the server ended with code {self._process.returncode}:\n{self._last_lines()}")
            try:
                if httpx2.get(f"{self.url}/readyz", timeout=5).status_code == 200:
                    return
            except httpx2.TransportError:
                pass  # Not listening yet.
            self._on_wait(time.monotonic() - began, self._last_line())
            time.sleep(0.5)
        raise RuntimeError(f"the server did not answer within {START_S:.0f} s:\n{self._last_lines()}")

    def _stop(self) -> None:
        assert self._process is not None
        if self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _last_line(self) -> str:
        """Return the newest message of the log, cut to the width of a terminal."""
        lines = self.log.read_text(errors="replace").splitlines() or ["loading Python packages"]
        return lines[-1].partition(": ")[2][:90] or lines[-1][:90]

    def _last_lines(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:]) + f"\n(whole log: {self.log})"


def _stop_with_parent() -> None:
    """Have the kernel send SIGTERM to the server if the demo is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def free_port() -> int:
    """Return an unused port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
