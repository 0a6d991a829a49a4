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
BROKEN = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.InternalError, sa.exc.TimeoutError)
"""Failures of the database itself (locked, full, restarting or gone), independent of the statement."""


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


def _make_engine(url: str, begin: str) -> sa.Engine:
    if not url.startswith("sqlite"):
        return sa.create_engine(url, pool_pre_ping=True, hide_parameters=True)
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

    def close(self) -> None:
        """Close every connection."""
        self.reader.dispose()
        self.writer.dispose()
