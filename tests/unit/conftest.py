"""Fixtures of the unit tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

import migrations
from server.store.database import Database


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """A new SQLite database with all tables."""
    made = Database(f"sqlite:///{tmp_path / 'test.db'}")
    migrations.upgrade(made.writer)
    yield made
    made.close()


@pytest.fixture
def session(database: Database) -> Iterator[Session]:
    """A session that writes to it."""
    with Session(database.writer) as made:
        yield made
