"""Database revisions (Alembic). `upgrade(engine)` brings a database to the newest one; starting the server does so."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

_LOCK = 0x7570_7475_726E  # PostgreSQL advisory lock: servers that start together migrate one after the other.


def config(connection: sa.Connection) -> Config:
    """Return an Alembic configuration that works on an open connection, without an ini file."""
    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent))
    made.attributes["connection"] = connection
    return made


def upgrade(engine: sa.Engine) -> None:
    """Bring the database to the newest revision."""
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        command.upgrade(config(connection), "head")


def check(engine: sa.Engine) -> None:
    """Raise an error where the tables in the code differ from the database."""
    with engine.begin() as connection:
        command.check(config(connection))
