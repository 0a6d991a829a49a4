"""A real PostgreSQL from Debian's package, on a free loopback port, which a test can stop and restart."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class PostgresServer:
    """One cluster. PostgreSQL refuses to run as root; as root, it runs as the user `postgres`."""

    def __init__(self, home: Path) -> None:
        binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        initdb = shutil.which("initdb")
        folder = binaries[-1] if binaries else Path(initdb).parent if initdb else None
        assert folder is not None, "PostgreSQL is not installed: apt-get install postgresql"
        user = "postgres" if os.geteuid() == 0 else getpass.getuser()
        self._who: dict[str, Any] = {"cwd": home, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        if os.geteuid() == 0:
            self._who["user"] = user
            shutil.chown(home, user)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._folder, self._home = folder, home
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"postgresql://upturn@127.0.0.1:{self._port}/postgres"
        subprocess.run(
            [folder / "initdb", "-D", home / "data", "-U", "upturn", "-A", "trust", "--no-sync"],
            check=True,
            **self._who,
        )

    def start(self) -> None:
        """Start it, and wait until it accepts connections."""
        self._process = subprocess.Popen(
            [
                self._folder / "postgres",
                "-D",
                self._home / "data",
                "-p",
                str(self._port),
                "-k",
                self._home,
                "-c",
                "listen_addresses=127.0.0.1",
            ],
            **self._who,
        )
        ready = [self._folder / "pg_isready", "-h", "127.0.0.1", "-p", str(self._port)]
        deadline = time.monotonic() + 60
        while subprocess.run(ready, check=False, **self._who).returncode != 0:
            assert self._process.poll() is None and time.monotonic() < deadline, "PostgreSQL did not start"
            time.sleep(0.1)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Stop it: SIGTERM waits for clients, SIGINT disconnects them, SIGQUIT is a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(60)
            self._process = None


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """Run a server until the block ends."""
    home = Path(tempfile.mkdtemp(prefix="upturn-postgres-", dir="/tmp"))
    server = PostgresServer(home)
    try:
        server.start()
        yield server
    finally:
        server.stop(signal.SIGINT)
        shutil.rmtree(home)
