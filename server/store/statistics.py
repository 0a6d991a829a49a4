"""Keeps the database's statistics of its tables fresh, from which it chooses how to search: at the start, then hourly.

Without them a query may walk through all episodes of a key where an index leads to one.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

import sqlalchemy as sa
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from sqlalchemy.orm import Session

from server.errors import Unavailable
from server.store.base import Base
from server.store.database import BROKEN, Database
from server.store.writer import Writer

log = logging.getLogger("upturn.database")
EVERY_HOURS = 1
ROWS = 400
"""Maximum number of rows of each index that SQLite reads: milliseconds, during which no answer is recorded."""


class Statistics:
    """The hourly job."""

    def __init__(self, database: Database, writer: Writer) -> None:
        self._database = database
        self._writer = writer
        self._scheduler = AsyncIOScheduler(timezone="UTC")

    def start(self) -> None:
        """Refresh them now, and then every hour."""
        self._scheduler.add_job(
            self.refresh,
            "interval",
            hours=EVERY_HOURS,
            next_run_time=datetime.now(UTC),
            coalesce=True,
            max_instances=1,
            misfire_grace_time=None,
        )
        self._scheduler.start()

    def close(self) -> None:
        """Stop."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    async def refresh(self) -> None:
        """Let the database look at its tables. A failure is logged: searches still work, perhaps slowly."""
        try:
            if self._database.reader.dialect.name == "sqlite":
                await self._writer.write(_optimize)
            else:
                await asyncio.to_thread(self._analyze)
        except (*BROKEN, sa.exc.ProgrammingError, Unavailable) as error:
            log.warning("the statistics of the database were not refreshed: %s", error)

    def _analyze(self) -> None:
        with self._database.reader.connect() as connection, connection.begin():
            for table in Base.metadata.sorted_tables:
                connection.execute(sa.text(f'analyze "{table.name}"'))


def _optimize(session: Session) -> None:
    connection = session.connection()
    connection.exec_driver_sql(f"pragma analysis_limit={ROWS}")
    connection.exec_driver_sql("pragma optimize=0x10002")  # Every table that may need it, not only recently used ones.
