"""Connections: SQLite (WAL) or PostgreSQL by URL, with one engine for reading and one for writing."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
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


def unavailable(error: sa.exc.SQLAlchemyError) -> Unavailable:
    """Return the HTTP error for a failure of the database.

    The driver's message can contain host names, so it only goes to the log.
    """
    first: BaseException = error
    while first.__context__ is not None:  # The original failure says more than the failed rollback after it.
        first = first.__context__
    log.error("%s: %s", type(first).__name__, first)
    return Unavailable(
        "the database is locked, full, restarting or gone; see the server's log", code="database_unavailable"
    )


def new_id(prefix: str) -> str:
    """Return a unique id that sorts by time, such as `ep_0198f0c2a6b1c3d4e5f60718`."""
    return f"{prefix}_{time.time_ns() // 1_000_000:012x}{secrets.token_hex(6)}"


def normalize_url(url: str) -> str:
    """Return the URL with this project's driver: `postgres://` and `postgresql://` mean psycopg 3."""
    for scheme in ("postgres://", "postgresql://"):
        if url.startswith(scheme):
            return "postgresql+psycopg://" + url.removeprefix(scheme)
    return url


def _make_engine(url: str, begin: str) -> sa.Engine:
    if not url.startswith("sqlite"):
        return sa.create_engine(url, pool_pre_ping=True)
    where = sa.make_url(url)
    engine = sa.create_engine(
        where.update_query_dict({"timeout": LOCK_S, **where.query}), pool_size=20, max_overflow=40
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


class Database:
    """The two engines of one database. Both block: read from any thread except the event loop's."""

    def __init__(self, url: str) -> None:
        self.url = normalize_url(url)
        self.reader = _make_engine(self.url, "BEGIN")
        # IMMEDIATE: with a second writing process, waits at the start instead of failing in the middle.
        self.writer = _make_engine(self.url, "BEGIN IMMEDIATE")

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
        """Close every connection."""
        self.reader.dispose()
        self.writer.dispose()
