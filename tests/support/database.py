"""The database of a test server, read and locked from outside the server."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
connection.execute("begin immediate")
print("locked", flush=True)
sys.stdin.readline()
connection.execute("rollback")
"""


def recorded(data_dir: Path) -> list[sqlite3.Row]:
    """Return all turns in a server's database, oldest first."""
    connection = sqlite3.connect(data_dir / "upturn.db", timeout=60)
    connection.row_factory = sqlite3.Row
    rows = connection.execute("select * from turn order by id").fetchall()
    connection.close()
    return rows


@contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Let another process hold the database's write lock until the block ends."""
    command = [sys.executable, "-c", LOCK, str(data_dir / "upturn.db")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None and other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        try:
            yield
        finally:
            other.stdin.write("\n")
            other.stdin.close()
            other.wait(60)
