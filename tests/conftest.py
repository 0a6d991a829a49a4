"""Fixtures shared by all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import Live, script, serving, settings_for


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The server runs on asyncio, whatever else is installed."""
    return "asyncio"


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    """A server with the scripted engine that plays nothing well but answers at once."""
    model = script(tmp_path / "script", "Hello there.", "Second answer.")
    with serving(settings_for(tmp_path / "data", model=str(model))) as running:
        yield running
