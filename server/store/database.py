"""Connections: SQLite (WAL) or PostgreSQL by URL, with one engine for reading and one for writing."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session

from server.errors import Unavailable

log = logging.getLogger("upturn.database")

LOCK_S = "30"
"""Seconds that a statement waits for another process's lock on SQLite; `?timeout=` in the URL overrides it."""
LOG_WAIT_MS = 200
"""Longest wait for readers of the write-ahead log before it is emptied, in milliseconds."""
BROKEN = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.InternalError, sa.exc.TimeoutError)
"""Failures of the database itself (locked, full, restarting or gone), independent of the statement."""

_SERVER_LOCK = 0x7570_7475  # PostgreSQL advisory locks of servers; the second number is the schema.


class Taken(Unavailable):
    """Another server holds this PostgreSQL database."""

    code = "database_unavailable"

    def __init__(self, holder: str) -> None:
        super().__init__(f"another server ({holder}) has taken the database: stop one of the two")
        self.holder = holder


def unavailable(error: sa.exc.SQLAlchemyError) -> Unavailable:
    """Return the HTTP error for a failure of the database.

    The driver's message can contain host names, so it only goes to the log.
    """
    first: BaseException = error
    while first.__context__ is not None:  # The original failure says more than the failed rollback after it.
        first = first.__context__
    log.error("the database is unavailable: %s", first)
    made = Unavailable(
        "the database is locked, full, restarting or gone; see the server's log", code="database_unavailable"
    )
    made.__cause__ = error
    return made


def new_id(prefix: str) -> str:
    """Return a unique id that sorts by time, such as `ep_0198f0c2a6b1c3d4e5f60718`."""
    return id_at(prefix, time.time()) + secrets.token_hex(6)


def id_at(prefix: str, at: float) -> str:
    """Return the beginning of the ids made at a Unix time, in milliseconds: it sorts before all of them."""
    return f"{prefix}_{int(at * 1000):012x}"


def normalize_url(url: str) -> str:
    """Return the URL with this project's driver: `postgres://` and `postgresql://` mean psycopg 3."""
    for scheme in ("postgres://", "postgresql://"):
        if url.startswith(scheme):
            return "postgresql+psycopg://" + url.removeprefix(scheme)
    return url


def sqlite_file(url: str) -> Path | None:
    """Return the resolved file of a SQLite database; None for another or one in memory."""
    where = sa.make_url(url)
    name = where.database or ""
    if where.get_backend_name() != "sqlite" or name in ("", ":memory:") or where.query.get("mode") == "memory":
        return None
    return Path(name.removeprefix("file:").partition("?")[0]).resolve()


def _make_engine(url: str, begin: str, exclusive: bool = False) -> sa.Engine:
    if not url.startswith("sqlite"):
        return _exclusive_engine(url) if exclusive else sa.create_engine(url, pool_pre_ping=True, hide_parameters=True)
    where = sa.make_url(url)
    engine = sa.create_engine(
        where.update_query_dict({"timeout": LOCK_S, **where.query}),
        pool_size=20,
        max_overflow=40,
        hide_parameters=True,
    )

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        # sqlite3's own transaction handling breaks savepoints; the BEGIN below replaces it.
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def start_transaction(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _exclusive_engine(url: str) -> sa.Engine:
    """Return an engine of one connection, which holds the server's lock; a lost lock is taken again with it."""
    me = f"upturn {os.getpid()} {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {socket.gethostname()}"[:63]
    engine = sa.create_engine(
        url,
        pool_pre_ping=True,
        pool_size=1,
        max_overflow=0,
        hide_parameters=True,
        connect_args={"application_name": me},
    )

    @event.listens_for(engine, "connect")
    def take(connection: Any, _record: Any) -> None:
        with connection.cursor() as cursor:
            key = f"{_SERVER_LOCK}, hashtext(coalesce(current_schema(), ''))"
            taken = cursor.execute(f"SELECT pg_try_advisory_lock({key})").fetchone()[0]
            found = None
            if not taken:
                found = cursor.execute(
                    "SELECT application_name, pg_locks.pid FROM pg_locks LEFT JOIN pg_stat_activity USING (pid) "
                    f"WHERE locktype = 'advisory' AND granted AND classid = {_SERVER_LOCK} AND database = "
                    "(SELECT oid FROM pg_database WHERE datname = current_database())"
                ).fetchone()
        connection.commit()  # The lock belongs to the connection, not to the transaction.
        if not taken:
            connection.close()
            raise Taken(_holder(*found) if found else "which is just stopping")

    return engine


def _holder(name: str | None, backend: int) -> str:
    match (name or "").split():
        case ["upturn", pid, since, host]:
            return f"process {pid} on {host} since {since.replace('T', ' ').replace('Z', ' UTC')}"
    return f"the connection of PostgreSQL process {backend}"


class Database:
    """The two engines of one database. Both block: read from any thread except the event loop's."""

    def __init__(self, url: str, *, exclusive: bool = False) -> None:
        """Prepare the engines; they connect when they are used.

        Args:
            url: SQLAlchemy URL.
            exclusive: on PostgreSQL, let the writing engine hold the server's lock (`exclusive.py`).
        """
        self.url = normalize_url(url)
        self.reader = _make_engine(self.url, "BEGIN")
        # IMMEDIATE: with a second writing process, waits at the start instead of failing in the middle.
        self.writer = _make_engine(self.url, "BEGIN IMMEDIATE", exclusive)
        self._closed = False
        for engine in (self.reader, self.writer):
            event.listen(engine, "checkin", self._close_if_late)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Open a session for reading."""
        with Session(self.reader, expire_on_commit=False) as session:
            yield session

    def empty_log(self) -> bool:
        """Empty SQLite's write-ahead log, which keeps what was written before it was deleted.

        Returns:
            Whether nothing is left in it: a transaction in another thread or process may still need it.
        """
        if not self.url.startswith("sqlite"):
            return True  # PostgreSQL's VACUUM and its own log are for its operator.
        connection = self.writer.raw_connection()
        try:
            cursor = connection.cursor()
            (before,) = cursor.execute("PRAGMA busy_timeout").fetchone()
            cursor.execute(f"PRAGMA busy_timeout={LOG_WAIT_MS}")  # Meanwhile no answer is recorded.
            try:
                busy, *_ = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                cursor.execute(f"PRAGMA busy_timeout={before}")
            return not busy
        finally:
            connection.close()

    def close(self) -> None:
        """Close every connection; one that a thread still uses is closed when the thread is done with it."""
        self._closed = True
        self.reader.dispose()
        self.writer.dispose()

    def _close_if_late(self, _connection: Any, record: sa.pool.ConnectionPoolEntry) -> None:
        if self._closed:
            record.invalidate()
