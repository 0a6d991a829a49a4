"""Adapters in the engine: which stay loaded, and which are unloaded when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from server.errors import EngineError, Unavailable
from server.recording.episode import Episode
from server.versions.settings import VersionSettings
from server.wiring.parts import Parts
from tests.support.in_process import Held, chat, publication, queued, running, settled
from tests.support.live import script, settings_for
from upturn.wire import EpisodeOpen

IDLE_S = 600.0


class Clock:
    """A time that tests set."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    model = script(tmp_path / "script", "base")
    settings = settings_for(
        tmp_path / "data",
        model=str(model),
        weights="adapter",
        versions=VersionSettings(newest=100, on_demand=2, idle_s=IDLE_S),
    )
    async with running(settings) as made:
        made.serving.residency.clock = Clock()
        yield made


@pytest.fixture
async def clock(parts: Parts) -> Clock:
    assert isinstance(parts.serving.residency.clock, Clock)
    return parts.serving.residency.clock


async def publish(parts: Parts, *answers: str) -> None:
    run = await queued(parts)
    for step, answer in enumerate(answers):
        await parts.publisher.publish(publication(parts, answer, run.id, step))


async def tidy(parts: Parts) -> set[int]:
    """Unload what is unused; return the versions that are loaded."""
    async with parts.serving.lock:
        await parts.serving.residency.tidy()
    return set(parts.engine.versions)


async def playing(parts: Parts, version: int) -> Episode:
    """Open an episode of an environment."""
    episode, _ = await parts.episodes.open(EpisodeOpen(environment="e", task="t"), policy_version=version, horizon=9)
    await episode.opened()
    return episode


async def answer(parts: Parts, episode: Episode, *said: str) -> str:
    version = parts.pointers.for_episode(episode, None, parts.engine)
    (turn,) = await parts.turns.begin(episode, chat(*said), version)
    return (await turn.answer()).text


async def test_the_version_of_an_environment_episode_stays_loaded_when_the_head_moves_on(
    parts: Parts, clock: Clock
) -> None:
    await publish(parts, "one")
    episode = await playing(parts, 1)
    assert await answer(parts, episode, "Hi") == "one"
    await publish(parts, "two", "three")
    clock.now += 100 * IDLE_S
    assert await tidy(parts) == {0, 1, 3}
    assert await answer(parts, episode, "Hi", "one", "and") == "one"
    await parts.episodes.end(episode, "terminated")
    assert await tidy(parts) == {0, 3}


async def test_a_version_that_is_answering_stays_loaded(
    parts: Parts, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish(parts, "one")
    episode, _ = await parts.episodes.open(EpisodeOpen(), policy_version=1, horizon=9)
    held = Held(parts, monkeypatch)
    (turn,) = await parts.turns.begin(episode, chat("Hi"), 1)
    await held.began.wait()
    await publish(parts, "two")
    clock.now += 100 * IDLE_S
    assert await tidy(parts) == {0, 1, 2}
    held.go.set()
    assert (await turn.answer()).text == "one"
    assert await tidy(parts) == {0, 2}


async def test_a_version_loaded_on_demand_stays_for_exactly_its_idle_time(parts: Parts, clock: Clock) -> None:
    await publish(parts, "one", "two")
    await parts.serving.residency.load_on_demand("policy@1")
    clock.now += IDLE_S - 1
    assert await tidy(parts) == {0, 1, 2}
    await parts.serving.residency.load_on_demand("policy@1")
    clock.now += IDLE_S - 1
    assert await tidy(parts) == {0, 1, 2}, "it was requested again"
    clock.now += 1
    assert await tidy(parts) == {0, 2}
    await parts.serving.residency.load_on_demand(None, began_on=1)
    assert parts.engine.versions == {0, 1, 2}


async def test_the_version_whose_request_is_oldest_makes_room(parts: Parts, clock: Clock) -> None:
    await publish(parts, "one", "two", "three", "four")
    for version in (1, 2, 1, 3):
        clock.now += 10
        await parts.serving.residency.load_on_demand(f"policy@{version}")
    assert parts.engine.versions == {0, 1, 3, 4}


async def test_a_version_that_was_just_requested_makes_no_room(parts: Parts, clock: Clock) -> None:
    await publish(parts, "one", "two", "three", "four")
    for version in (1, 2):
        await parts.serving.residency.load_on_demand(f"policy@{version}")
    clock.now += 4.9
    with pytest.raises(Unavailable, match=r"all 2 versions .* are in use") as refused:
        await parts.serving.residency.load_on_demand("policy@3")
    assert refused.value.code == "versions_busy" and parts.engine.versions == {0, 1, 2, 4}
    await parts.serving.residency.load_on_demand("policy@1")
    clock.now += 0.1
    await parts.serving.residency.load_on_demand("policy@3")
    assert parts.engine.versions == {0, 1, 3, 4}


@pytest.mark.parametrize("model", ["policy@7", "policy@x", "policy@", "other@1", f"policy@{2**31}", "policy", None])
async def test_a_name_that_needs_no_loading_loads_nothing(parts: Parts, model: str | None) -> None:
    await publish(parts, "one", "two")
    await tidy(parts)
    await parts.serving.residency.load_on_demand(model)
    assert parts.engine.versions == {0, 2}


async def test_a_version_requested_while_it_is_unloaded_is_loaded_again(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish(parts, "one", "two")
    await parts.serving.residency.load_on_demand("policy@1")
    parts.serving.residency.clock.now += 2 * IDLE_S  # type: ignore[attr-defined]
    unload, began, go = parts.engine.unload, asyncio.Event(), asyncio.Event()

    async def slowly(version: int) -> None:
        began.set()
        await go.wait()
        await unload(version)

    monkeypatch.setattr(parts.engine, "unload", slowly)
    tidying = asyncio.create_task(tidy(parts))
    await began.wait()
    requesting = asyncio.create_task(parts.serving.residency.load_on_demand("policy@1"))
    await settled(parts)
    go.set()
    await asyncio.gather(tidying, requesting)
    assert parts.engine.versions == {0, 1, 2}


async def test_a_version_that_was_not_unloaded_can_be_requested_and_unloaded_later(
    parts: Parts, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish(parts, "one", "two")
    await parts.serving.residency.load_on_demand("policy@1")
    clock.now += 2 * IDLE_S
    unload: Any = parts.engine.unload

    async def fails(version: int) -> None:
        raise EngineError("no")

    monkeypatch.setattr(parts.engine, "unload", fails)
    with pytest.raises(EngineError):
        await tidy(parts)
    monkeypatch.setattr(parts.engine, "unload", unload)
    await parts.serving.residency.load_on_demand("policy@1")
    assert not parts.serving.residency._unloading
    clock.now += 2 * IDLE_S
    assert await tidy(parts) == {0, 2}
