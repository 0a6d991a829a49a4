"""One server per database and data directory: the lock that a server holds from its start to its end.

A server closes the interrupted episodes of its database when it starts, and keeps open episodes and pointers in memory,
so a second one would end the first one's work. On SQLite the lock is a file next to the database, which the system
releases when the process ends, even by kill -9. On PostgreSQL it is an advisory lock of the connection that writes:
without the lock there is no writing connection. The data directory, which holds weights, has a lock file too.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from server.errors import Conflict
from server.store.database import Database, Taken, sqlite_file

LOCK_FILE = "server.lock"
"""Name of the lock file in a data directory."""
RETRY_S = 0.2


class DatabaseInUse(Conflict):
    """Another server uses the database or the data directory."""

    code = "database_in_use"


class FileLock:
    """A lock on a file, which names the process that holds it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def take(self) -> str | None:
        """Take the lock; return None, or who holds it."""
        if sys.platform == "win32":  # No server runs there.
            return None
        import fcntl

        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)  # Child processes do not inherit it.
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(descriptor, 1000, 0)
            os.close(descriptor)
            return _read(holder)
        os.ftruncate(descriptor, 0)
        os.pwrite(
            descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}).encode(), 0
        )
        self._descriptor = descriptor
        return None

    def release(self) -> None:
        """Give the lock back. The file stays: deleting it would let two processes lock two files of one name."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class Exclusive:
    """The locks of one server on its database and its data directory."""

    def __init__(self, database: Database, data_dir: Path) -> None:
        """Prepare the locks; nothing is taken before `take`.

        Args:
            database: the database; on PostgreSQL one that was opened with `exclusive`.
            data_dir: an existing directory.
        """
        self._database = database
        file = sqlite_file(database.url)
        files = [] if file is None else [file.with_name(file.name + ".lock")]
        self._files = [FileLock(path) for path in [*files, data_dir.resolve() / LOCK_FILE]]

    def take(self, wait_s: float = 0.0, say: Callable[[str], None] = lambda _: None) -> None:
        """Take all locks, or none.

        Args:
            wait_s: how long to wait for another server to end, in seconds.
            say: receives one line before waiting.

        Raises:
            DatabaseInUse: another server still holds one of them; the message names it.
        """
        deadline, said = time.monotonic() + wait_s, False
        while (holder := self._try()) is not None:
            if time.monotonic() >= deadline:
                raise DatabaseInUse(
                    f"{holder}: stop that server first, or use another data directory and database; one database "
                    "serves one server"
                )
            if not said:
                say(f"{holder}; waiting up to {wait_s:g} s for it to stop")
                said = True
            time.sleep(RETRY_S)

    def release(self) -> None:
        """Release the files; a PostgreSQL lock ends with the database's connections."""
        for file in self._files:
            file.release()

    def _try(self) -> str | None:
        """Take all locks and return None; if one is held, return by whom, without any."""
        where = sa.make_url(self._database.url).render_as_string(hide_password=True)
        for file in self._files:
            if (holder := file.take()) is not None:
                self.release()
                return f"{where} or its data directory is in use by {holder}"
        try:
            if sqlite_file(self._database.url) is None:
                self._database.writer.connect().close()
        except Taken as taken:
            self.release()
            return f"{where} is in use by {taken.holder}"
        except BaseException:
            self.release()
            raise
        return None


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _read(content: bytes) -> str:
    """Return who wrote a lock file; its writer may be just about to."""
    try:
        holder = json.loads(content)
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
