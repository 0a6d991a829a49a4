"""Keeps the database's statistics of its tables fresh, from which it chooses how to search: at the start, then hourly.

Without them a query may walk through all episodes of a key where an index leads to one.
"""

from __future__ import annotations

import asyncio
import logging

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.background import Repeated
from server.errors import Unavailable
from server.store.base import Base
from server.store.database import BROKEN, Database
from server.store.writer import Writer

log = logging.getLogger("upturn.database")
HOUR_S = 3600
ROWS = 400
"""Maximum number of rows of each index that SQLite reads: milliseconds, during which no answer is recorded."""


class Statistics:
    """The hourly job."""

    def __init__(self, database: Database, writer: Writer) -> None:
        self._database = database
        self._writer = writer
        self._repeated = Repeated(self.refresh, HOUR_S)

    def start(self) -> None:
        """Refresh them now, and then every hour."""
        self._repeated.start()

    def close(self) -> None:
        """Stop."""
        self._repeated.close()

    async def refresh(self) -> None:
        """Let the database look at its tables. A failure is logged: searches still work, perhaps slowly."""
        try:
            if self._database.reader.dialect.name == "sqlite":
                await self._writer.write(_analyze_sqlite)
            else:
                await asyncio.to_thread(self._analyze)
        except (*BROKEN, sa.exc.ProgrammingError, Unavailable) as error:
            log.warning("the statistics of the database were not refreshed: %s", error)

    def _analyze(self) -> None:
        with self._database.reader.connect() as connection, connection.begin():
            for table in Base.metadata.sorted_tables:
                connection.execute(sa.text(f'analyze "{table.name}"'))


def _analyze_sqlite(session: Session) -> None:
    # Not `pragma optimize`: before SQLite 3.46 it leaves out every table that the same connection has not searched.
    connection = session.connection()
    connection.exec_driver_sql(f"pragma analysis_limit={ROWS}")
    # A connection reads the statistics together with the schema, and does so again if a table is new.
    connection.exec_driver_sql("drop table if exists sqlite_stat1")
    connection.exec_driver_sql("analyze")
