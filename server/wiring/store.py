"""Opens the store of a server: its locks first, then the newest revision of the database."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import migrations
from server.settings import Settings
from server.store.database import Database
from server.store.exclusive import Exclusive


@dataclass(frozen=True, slots=True)
class Store:
    """A database that this process alone serves."""

    database: Database
    exclusive: Exclusive

    def close(self) -> None:
        """Close the connections, then release the locks."""
        self.database.close()
        self.exclusive.release()


def open_store(settings: Settings, say: Callable[[str], None] = lambda _: None) -> Store:
    """Lock the database and the data directory, then migrate the database. Blocks.

    Args:
        settings: the settings.
        say: receives a line before waiting for another server to stop.

    Raises:
        DatabaseInUse: another server uses the database or the data directory.
        migrations.UnknownRevision: a newer version of this project made the database.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    database = Database(settings.resolved_database_url, exclusive=True)
    exclusive = Exclusive(database, settings.data_dir)
    try:
        exclusive.take(settings.start_wait_s, say)
        migrations.upgrade(database.writer)
    except BaseException:
        database.close()
        exclusive.release()
        raise
    return Store(database, exclusive)
