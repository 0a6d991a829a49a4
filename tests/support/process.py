"""A server in a process of its own, for tests that kill it, signal it or read what it prints."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2

ROOT = Path(__file__).parents[2]


@contextmanager
def process(data_dir: Path, model: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `python -m server serve`, as users start it, on a free port; kill it when the block ends.

    Yields:
        The process, and the URL of the ready server.
    """
    command = [
        sys.executable,
        "-m",
        "server",
        "serve",
        "--port",
        "0",
        "--data-dir",
        str(data_dir),
        "--model",
        str(model),
        "--no-learner.start",
        *flags,
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        name, url = server.stdout.readline().split()[:2]
        assert name == "upturn:" and url.startswith("http://")
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline and server.poll() is None:
            try:
                if httpx2.get(f"{url}/readyz").status_code == 200:
                    break
            except httpx2.TransportError:
                time.sleep(0.1)
        try:
            yield server, url
        finally:
            server.kill()
