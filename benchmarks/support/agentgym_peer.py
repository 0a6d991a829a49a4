"""AgentGym's environment servers, from a checkout, for comparison. Used by `environments.py`.

They need older packages, so this module creates a virtual environment for them. Requests follow their own protocol,
which `docs/environments.md` describes.
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
    """One AgentGym server, and the actions of an episode; ours receives the same."""

    folder: str
    app: str
    actions: list[str]
    at_once: int = 64
    create: Any = None
    """Body of the create request."""


PEERS = {
    "textcraft": Peer("agentenv-textcraft", "agentenv_textcraft:app", ["inventory", "get 1 oak log"], create={}),
    "babyai": Peer("agentenv-babyai", "agentenv_babyai:app", ["turn left", "turn right"]),
    # Each of its environments is a Java process.
    "sciworld": Peer("agentenv-sciworld", "agentenv_sciworld:app", ["look around", "inventory"], at_once=8),
}


class Theirs:
    """Episodes of an AgentGym server."""

    def __init__(self, url: str, peer: Peer) -> None:
        self._url, self._peer = url, peer

    async def begin(self, connection: Connection, script: Script) -> Any:
        """Create and reset an environment; return its id."""
        made = (await _post(connection, "/create", self._peer.create))["id"]
        await _post(connection, "/reset", {"id": made, "data_idx": script.seed})
        return made

    async def step(self, connection: Connection, episode: Any, action: str) -> None:
        """Act."""
        await _post(connection, "/step", {"id": episode, "action": action})

    async def end(self, connection: Connection, episode: Any) -> None:
        """Close the environment if the server supports that."""
        await connection.send("POST", "/close", {"id": episode})

    def connection(self) -> Connection:
        """Return a new connection to the server."""
        return Connection(self._url)


async def _post(connection: Connection, path: str, body: Any) -> Any:
    status, answer = await connection.send("POST", path, body)
    if status >= 300 or (isinstance(answer, dict) and "error" in answer):
        raise RuntimeError(f"AgentGym's {path} answered {status}: {answer}")
    return answer


def installed(venv: Path) -> Path:
    """Return the interpreter with the servers' requirements, creating its virtual environment at the first run."""
    python, complete, wanted = venv / "bin" / "python", venv / "complete", "\n".join(REQUIREMENTS)
    if not complete.is_file() or complete.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *REQUIREMENTS], check=True)
        complete.write_text(wanted)
    return python


@contextmanager
def serving(checkout: Path, python: Path, peer: Peer) -> Iterator[Theirs]:
    """Run an AgentGym server on a free port."""
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
