"""Database revisions (Alembic). `upgrade(engine)` brings a database to the newest one; starting the server does so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

_LOCK = 0x7570_7475_726E  # PostgreSQL advisory lock: servers that start together migrate one after the other.


def config(connection: sa.Connection, tables: sa.MetaData | None = None) -> Config:
    """Return an Alembic configuration that works on an open connection, without an ini file.

    `tables` is what the code declares; only `check` needs it.
    """
    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent))
    made.attributes["connection"] = connection
    made.attributes["tables"] = tables
    return made


@contextmanager
def migrating(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Open the one transaction in which revisions run.

    SQLite changes some columns by making their table anew; with foreign keys enforced, dropping the old table would
    take every row that points into it along.
    """
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        if connection.dialect.name == "sqlite":
            driver.execute("PRAGMA foreign_keys=OFF")  # does nothing once a transaction has begun
        try:
            with connection.begin():
                if connection.dialect.name == "postgresql":
                    connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
                yield connection
        finally:
            if connection.dialect.name == "sqlite":
                driver.execute("PRAGMA foreign_keys=ON")


def upgrade(engine: sa.Engine, revision: str = "head") -> None:
    """Bring the database to a revision, the newest by default."""
    with migrating(engine) as connection:
        command.upgrade(config(connection), revision)


def check(engine: sa.Engine, tables: sa.MetaData) -> None:
    """Raise an error where the tables in the code differ from the database."""
    with engine.begin() as connection:
        command.check(config(connection, tables))
