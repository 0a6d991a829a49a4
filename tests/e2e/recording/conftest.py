"""Databases for tests of the record."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.portable import new_database, record_everything


@pytest.fixture
def source(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A data directory with an episode of each kind, and their ids."""
    database = new_database(tmp_path / "source")
    made = asyncio.run(record_everything(database))
    database.close()
    return tmp_path / "source", made
