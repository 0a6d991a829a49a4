"""Opens the database for commands that use no other part of the server, with or without a running server."""

from __future__ import annotations

import tempfile
from contextlib import suppress

import sqlalchemy as sa

import migrations
from server.errors import NotFound
from server.settings import Settings
from server.store.database import Database, sqlite_file
from server.store.exclusive import Exclusive


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
    """Open the database at the newest revision, creating it if it does not exist.

    Raises:
        DatabaseInUse: the database is at an older revision, and a server is running on it.
        migrations.UnknownRevision: a newer version of this project made the database.
    """
    make_data_dir(settings)
    database = Database(settings.resolved_database_url)
    try:
        if not _is_newest(database):
            migrate(settings)
    except BaseException:
        database.close()
        raise
    return database


def migrate(settings: Settings) -> None:
    """Bring the database to the newest revision while no server runs on it.

    Raises:
        DatabaseInUse: a server is running on it.
        migrations.UnknownRevision: a newer version of this project made the database.
    """
    database = Database(settings.resolved_database_url, exclusive=True)
    exclusive = Exclusive(database, settings.data_dir)
    try:
        exclusive.take()
        migrations.upgrade(database.writer)
    finally:
        database.close()
        exclusive.release()


def open_existing_database(settings: Settings) -> Database:
    """Open the database without creating or migrating it.

    Raises:
        NotFound: the SQLite file does not exist.
    """
    url = settings.resolved_database_url
    file = sqlite_file(url)
    if file and not file.is_file():
        raise NotFound(f"there is no database {file}: name the server's --data-dir or --database-url")
    return Database(url)


def _is_newest(database: Database) -> bool:
    file = sqlite_file(database.url)
    if file is not None and not file.is_file():
        return False
    with suppress(sa.exc.OperationalError):
        return migrations.revision_of(database.reader) == migrations.newest_revision()
    return False
