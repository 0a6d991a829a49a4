"""Servers that several folders of these tests use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.dialects import PARIS, ROME
from tests.support.live import Live, script, serving, settings_for


@pytest.fixture
def talkative(tmp_path: Path) -> Iterator[Live]:
    """A server whose policy calls a weather tool for two cities, then answers."""
    model = script(tmp_path / "script", f"I look.\n{PARIS}\n{ROME}", "Rain, and sun.")
    with serving(settings_for(tmp_path / "data", model=str(model))) as live:
        yield live


@pytest.fixture
def thoughtful(tmp_path: Path) -> Iterator[Live]:
    """A server whose policy thinks before it speaks."""
    model = script(tmp_path / "script", "<think>\nHm.\n</think>\n\nYes.", "<think>\nSo.\n</think>\n\nNo.")
    with serving(settings_for(tmp_path / "data", model=str(model))) as live:
        live.parts.renderer.reasons = True
        yield live


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Live]:
    """A server that answers word by word."""
    model = script(tmp_path / "script", "word " * 100, delay_s=0.02)
    with serving(settings_for(tmp_path / "data", model=str(model))) as live:
        yield live


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Live]:
    """A server on loopback that requires keys nevertheless."""
    model = script(tmp_path / "script", "Hello there.", "Second answer.")
    with serving(settings_for(tmp_path / "data", model=str(model), keys="required")) as live:
        yield live
