"""Copies a whole database into a new one: as a file where both are SQLite, otherwise row by row."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import cast

import sqlalchemy as sa

from server.store.base import Base

ROWS = 500
"""Rows per statement."""
PAGES = 2000
"""Pages per step of SQLite's online backup; between steps the server writes."""


def copy_sqlite(source: Path, target: Path) -> None:
    """Copy a SQLite database that may be in use; the copy is one consistent state."""
    with closing(sqlite3.connect(source, timeout=60)) as old, closing(sqlite3.connect(target)) as new:
        # A transaction of our own pins the state: otherwise each write of the server would restart the copy.
        old.execute("BEGIN")
        old.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        old.backup(new, pages=PAGES)


def one_file(database: Path) -> None:
    """Write everything into the file of a SQLite database that nobody uses, so that it can be copied alone."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")


def copy_rows(source: sa.Engine, target: sa.Engine, progress: Callable[[int], None] = lambda _: None) -> int:
    """Copy all rows between databases at the newest revision; the target's tables are empty. Returns the count.

    The target gets everything in one transaction.
    """
    count = 0
    with source.connect() as reading, target.begin() as writing:
        if reading.dialect.name == "postgresql":
            reading.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        for table in Base.metadata.sorted_tables:
            # Rows refer to earlier rows of their own table, so they are copied in the order of their keys.
            query = sa.select(table).order_by(*table.primary_key.columns)
            rows = reading.execution_options(yield_per=ROWS).execute(query)
            for part in rows.mappings().partitions(ROWS):
                writing.execute(sa.insert(table), [dict(row) for row in part])
                count += len(part)
                progress(count)
            if writing.dialect.name == "postgresql":
                _set_sequences(writing, table)
    return count


def is_empty(engine: sa.Engine) -> bool:
    """Return whether a database has no rows, or no tables."""
    present = set(sa.inspect(engine).get_table_names())
    with engine.connect() as connection:
        return not any(
            connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first()
            for table in Base.metadata.sorted_tables
            if table.name in present
        )


def _set_sequences(connection: sa.Connection, table: sa.Table) -> None:
    """Let the numbers that PostgreSQL assigns continue after the copied ones."""
    for column in table.primary_key.columns:
        if isinstance(column.type, sa.Integer):
            name = {"table": f'"{table.name}"', "column": column.name}
            sequence = connection.execute(sa.text("SELECT pg_get_serial_sequence(:table, :column)"), name).scalar()
            if sequence is not None:
                newest = cast(int | None, connection.execute(sa.select(sa.func.max(column))).scalar())
                if newest is not None:
                    connection.execute(sa.text("SELECT setval(:name, :newest)"), {"name": sequence, "newest": newest})
