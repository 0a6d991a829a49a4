"""Rewards from outside: once per key, for turns that exist, and not without end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from server.errors import Conflict, NotFound
from server.store.tables import RewardRow
from server.wiring.parts import Parts
from tests.support.in_process import chat, opened, rows, running
from tests.support.live import settings_for
from upturn.wire import RewardRequest


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    async with running(settings_for(tmp_path / "data")) as made:
        yield made


async def test_a_key_records_one_reward_and_refuses_other_content(parts: Parts) -> None:
    episode = await opened(parts)
    (turn,) = await parts.turns.begin(episode, chat("Hi"), 0)
    await turn.answer()
    first = await parts.episodes.reward(episode.id, RewardRequest(value=1.0, key="k"))
    again = await parts.episodes.reward(episode.id, RewardRequest(value=1.0, key="k"))
    assert again == first and len(rows(parts, RewardRow)) == 1
    changes: list[dict[str, Any]] = [{"value": 0.5}, {"source": "judge"}, {"turn": 0}]
    for change in changes:
        with pytest.raises(Conflict, match="was used with other content") as refused:
            await parts.episodes.reward(episode.id, RewardRequest.model_validate({"value": 1.0, "key": "k", **change}))
        assert refused.value.code == "idempotency_conflict"
    for _ in range(2):
        await parts.episodes.reward(episode.id, RewardRequest(value=1.0))
    other = await opened(parts)
    await parts.episodes.reward(other.id, RewardRequest(value=0.0, key="k"))
    assert [row.value for row in rows(parts, RewardRow)] == [1.0, 1.0, 1.0, 0.0]


async def test_a_turn_that_does_not_exist_and_a_failed_episode_get_no_reward(parts: Parts) -> None:
    episode = await opened(parts)
    with pytest.raises(NotFound, match="has no turn 0"):
        await parts.episodes.reward(episode.id, RewardRequest(value=1.0, turn=0))
    (turn,) = await parts.turns.begin(episode, chat("Hi"), 0)
    await turn.answer()
    assert (await parts.episodes.reward(episode.id, RewardRequest(value=1.0, turn=0))).turn == 0
    with pytest.raises(NotFound, match="has no turn 1"):
        await parts.episodes.reward(episode.id, RewardRequest(value=1.0, turn=1))
    with pytest.raises(NotFound, match="no episode"):
        await parts.episodes.reward("ep_none", RewardRequest(value=1.0))
    failed = await opened(parts)
    await parts.episodes.end(failed, "error", error_class="Broken")
    with pytest.raises(Conflict, match=r"failed \(Broken\)"):
        await parts.episodes.reward(failed.id, RewardRequest(value=1.0))
    assert len(rows(parts, RewardRow)) == 1


async def test_rewards_and_their_sources_are_bounded(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.recording.given_rewards.MOST_REWARDS", 4)
    monkeypatch.setattr("server.recording.given_rewards.MOST_SOURCES", 2)
    episode = await opened(parts)

    async def reward(source: str, key: str | None = None) -> None:
        await parts.episodes.reward(episode.id, RewardRequest(value=1.0, source=source, key=key))

    await reward("a")
    await reward("b", "k")
    with pytest.raises(Conflict, match="rewards of 2 sources"):
        await reward("c")
    await reward("b")
    await reward("a")
    with pytest.raises(Conflict, match="has 4 rewards"):
        await reward("a")
    await reward("b", "k")
    assert len(rows(parts, RewardRow)) == 4
