"""Fixtures of the contract tests: one event loop for a module's engine."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"
