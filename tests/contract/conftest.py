"""Fixtures of the contract tests: one event loop for the engine of a module."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"
