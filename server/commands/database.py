"""Opens the database for commands that use no other part of the server."""

from __future__ import annotations

import tempfile
from pathlib import Path

import sqlalchemy as sa

import migrations
from server.errors import NotFound
from server.settings import Settings
from server.store.database import Database


class Unusable(Exception):
    """A place that a command needs cannot be used; the message says why and what to do."""


def make_data_dir(settings: Settings) -> None:
    """Create the data directory, and check that files can be made in it.

    Raises:
        Unusable: it cannot be created or written to.
    """
    directory = settings.data_dir.absolute()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise Unusable(
            f"cannot write to the data directory {directory} ({error.strerror}): choose another with --data-dir"
        ) from error


def open_database(settings: Settings) -> Database:
    """Open the database at the newest revision, creating it if it does not exist."""
    make_data_dir(settings)
    database = Database(settings.resolved_database_url)
    migrations.upgrade(database.writer)
    return database


def open_existing_database(settings: Settings) -> Database:
    """Open the database without creating or migrating it.

    Raises:
        NotFound: the SQLite file does not exist.
    """
    url = settings.resolved_database_url
    file = sa.make_url(url).database if url.startswith("sqlite") else None
    if file and not Path(file).is_file():
        raise NotFound(f"there is no database {file}: name the server's --data-dir or --database-url")
    return Database(url)
