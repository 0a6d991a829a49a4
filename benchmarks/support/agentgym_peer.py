"""AgentGym's own environment servers, out of a checkout, as something to compare with. Used by `environments.py`.

They need older packages than ours, so they run in an environment of their own that this makes. What is sent to them is
their own protocol; `docs/environments.md` has it.
"""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.support.episodes_load import Connection, Script
from clients.demo.server_process import free_port

REQUIREMENTS = ["fastapi", "uvicorn", "gymnasium<1", "minigrid<2.5", "gym==0.26.2", "matplotlib", "scienceworld==1.2.3"]


@dataclass(frozen=True, slots=True)
class Peer:
    """One of their servers, and what an episode there does (the same is sent to ours)."""

    folder: str
    app: str
    actions: list[str]
    at_once: int = 64
    create: Any = None
    """Body of its create request."""


PEERS = {
    "textcraft": Peer("agentenv-textcraft", "agentenv_textcraft:app", ["inventory", "get 1 oak log"], create={}),
    "babyai": Peer("agentenv-babyai", "agentenv_babyai:app", ["turn left", "turn right"]),
    # Each of its environments is a Java of its own.
    "sciworld": Peer("agentenv-sciworld", "agentenv_sciworld:app", ["look around", "inventory"], at_once=8),
}


class Theirs:
    """Episodes of one of their servers."""

    def __init__(self, url: str, peer: Peer) -> None:
        self._url, self._peer = url, peer

    async def begin(self, connection: Connection, script: Script) -> Any:
        """Create and reset an environment; return its id."""
        made = (await _asked(connection, "/create", self._peer.create))["id"]
        await _asked(connection, "/reset", {"id": made, "data_idx": script.seed})
        return made

    async def step(self, connection: Connection, episode: Any, action: str) -> None:
        """Act."""
        await _asked(connection, "/step", {"id": episode, "action": action})

    async def end(self, connection: Connection, episode: Any) -> None:
        """Close it, where the server knows how."""
        await connection.send("POST", "/close", {"id": episode})

    def connection(self) -> Connection:
        """Return a new connection to it."""
        return Connection(self._url)


async def _asked(connection: Connection, path: str, body: Any) -> Any:
    status, answer = await connection.send("POST", path, body)
    if status >= 300 or (isinstance(answer, dict) and "error" in answer):
        raise RuntimeError(f"AgentGym's {path} answered {status}: {answer}")
    return answer


def installed(venv: Path) -> Path:
    """Return the Python that has what their servers need, made at the first run."""
    python, complete, wanted = venv / "bin" / "python", venv / "complete", "\n".join(REQUIREMENTS)
    if not complete.is_file() or complete.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *REQUIREMENTS], check=True)
        complete.write_text(wanted)
    return python


@contextmanager
def serving(checkout: Path, python: Path, peer: Peer) -> Iterator[Theirs]:
    """Run one of their servers on a free port."""
    port = free_port()
    command = [python, "-m", "uvicorn", peer.app, "--port", str(port), "--log-level", "warning"]
    with subprocess.Popen(command, cwd=checkout / peer.folder, stdout=subprocess.DEVNULL) as server:
        try:
            _wait(f"http://127.0.0.1:{port}/", server)
            yield Theirs(f"http://127.0.0.1:{port}", peer)
        finally:
            server.terminate()


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except urllib.error.URLError as error:
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"AgentGym's server did not start ({error})") from error
            time.sleep(0.2)
