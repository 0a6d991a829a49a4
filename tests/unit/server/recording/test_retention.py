"""Which episodes retention erases: a day has 86,400 seconds, and an open episode stays."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from server.recording.retention import Retention
from server.store.tables import EpisodeRow
from server.wiring.parts import Parts
from tests.support.in_process import opened, rows, running
from tests.support.live import settings_for

NOW = 1_800_000_000.0


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    async with running(settings_for(tmp_path / "data")) as made:
        yield made


async def ended(parts: Parts, age_s: float) -> str:
    """Record an episode that ended this long before `NOW`."""
    episode = await opened(parts)
    await parts.episodes.end(episode, "closed")
    change = sa.update(EpisodeRow).where(EpisodeRow.id == episode.id).values(closed_at=NOW - age_s, opened_at=0.0)
    await parts.writer.write(lambda session: session.execute(change))
    return episode.id


async def test_episodes_are_erased_after_exactly_their_days(parts: Parts) -> None:
    await ended(parts, 2 * 86_400 + 1)
    kept = [await ended(parts, 2 * 86_400), await ended(parts, 86_400), (await opened(parts)).id]
    assert await Retention(parts.privacy, 2.0, clock=lambda: NOW).prune() == 1
    assert sorted(row.id for row in rows(parts, EpisodeRow)) == sorted(kept)
    assert await Retention(parts.privacy, 0.5, clock=lambda: NOW).prune() == 2
    assert [row.id for row in rows(parts, EpisodeRow)] == kept[2:]


async def test_more_episodes_than_fit_one_transaction_are_erased(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.recording.privacy.CHUNK", 2)
    for _ in range(5):
        await ended(parts, 86_401)
    assert await Retention(parts.privacy, 1.0, clock=lambda: NOW).prune() == 5


async def test_nothing_is_erased_without_a_period(parts: Parts) -> None:
    await ended(parts, 1e9)
    off: Any = Retention(parts.privacy, None, clock=lambda: NOW)
    off.start()
    off.close()
    assert await off.prune() == 0 and len(rows(parts, EpisodeRow)) == 1
