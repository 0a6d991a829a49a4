"""The batch of a learner step: failed plays, requests that come together, and what is acknowledged."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from server.environments.settings import EnvironmentSettings
from server.errors import Conflict, NotFound, Unavailable
from server.recording import episodes
from server.store.tables import BatchRow, EpisodeRow, MetricRow, PlayRow, RunEpisodeRow, RunRow
from server.training.data import selection
from server.wiring.parts import Parts
from tests.support.in_process import Held, chat, claimed, rows, running
from tests.support.live import script, settings_for
from upturn.wire import (
    BatchAck,
    BatchRequest,
    EpisodeOpen,
    PlayPlan,
    RewardRequest,
    RunConfig,
    RunView,
    TrainedEpisode,
)

ENVIRONMENT = "odd/inline:x"


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    model = script(tmp_path / "script", "win")
    environments = EnvironmentSettings(modules=["tests.support.environments.odd_inline"], workers=0)
    async with running(settings_for(tmp_path / "data", model=str(model), environments=environments)) as made:
        yield made


def request(run: RunView, step: int = 0, **more: Any) -> BatchRequest:
    return BatchRequest.model_validate({"run_id": run.id, "learner": "tester", "step": step, "horizon": 3, **more})


async def rewarded(parts: Parts, *rewards: float) -> list[str]:
    """Record a live episode of one turn for each reward; return their ids."""
    ids = []
    for reward in rewards:
        episode, _ = await parts.episodes.open(EpisodeOpen(group="g"), policy_version=0, horizon=3)
        (turn,) = await parts.turns.begin(episode, chat("Hi"), 0)
        await turn.answer()
        await parts.episodes.reward(episode.id, RewardRequest(value=reward))
        await parts.episodes.end(episode, "closed")
        ids.append(episode.id)
    return ids


def plan() -> PlayPlan:
    return PlayPlan(environment=ENVIRONMENT, tasks=["train/0"], groups=1, group_size=2)


@pytest.mark.parametrize("algorithm", ["reinforce_pp", "sft"])
async def test_the_order_of_a_batch_does_not_depend_on_which_episode_began_first(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, algorithm: str
) -> None:
    last = itertools.count(10**6, -1)
    monkeypatch.setattr(episodes, "new_id", lambda prefix: f"{prefix}_{next(last):018d}")
    tasks = PlayPlan(environment=ENVIRONMENT, tasks=["train/1", "train/0"], groups=2, group_size=3)
    run = await claimed(parts, algorithm=algorithm, play=tasks.model_dump())
    while (batch := await parts.batches.lease(request(run))).state != "leased":
        pass
    played = {row.id: (row.task, row.repetition) for row in rows(parts, EpisodeRow)}
    order = [(f"train/{task}", repetition) for task in range(2) for repetition in range(3)]
    assert [played[sample.episode_id] for sample in batch.samples] == order
    assert [played[i] for i in sorted(played)] != order, "the ids would have ordered them as well"


def test_pairs_of_equal_rewards_do_not_depend_on_which_episode_began_first() -> None:
    config = RunConfig(steps=1, algorithm="dpo")
    members = [EpisodeRow(id=f"ep_{9 - n}", play_id="play", environment="x", task="t", repetition=n) for n in range(4)]
    rewards = dict(zip((e.id for e in members), (1.0, 1.0, 0.0, 0.0), strict=True))
    assert selection._of_group(config, members[::-1], rewards) == (["ep_9", "ep_7"], None)


async def test_the_step_of_a_failed_play_is_played_again(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    run = await claimed(parts, play=plan().model_dump())
    held = Held(parts, monkeypatch)
    prepared = await parts.batches.lease(request(run, prepare=True))
    assert prepared.state == "gathering"
    first = rows(parts, BatchRow)[0].play_id
    await parts.plays.cancel(first, "the host died")
    with pytest.raises(Unavailable, match="the play of step 0 cancelled: the host died") as failed:
        await parts.batches.lease(request(run))
    assert failed.value.code == "play_failed"
    assert rows(parts, BatchRow)[0].play_id is None
    held.go.set()
    batch = await parts.batches.lease(request(run))
    assert batch.state == "leased" and batch.play is not None and batch.play.state == "done"
    assert batch.play.id != first and [play.state for play in rows(parts, PlayRow)] == ["cancelled", "done"]
    assert batch.episodes == 2


async def test_a_step_is_played_once_however_often_it_is_requested(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await claimed(parts, play=plan().model_dump())
    held = Held(parts, monkeypatch)
    prepared = await asyncio.gather(*(parts.batches.lease(request(run, prepare=True)) for _ in range(3)))
    assert len({batch.id for batch in prepared}) == len(rows(parts, PlayRow)) == len(rows(parts, BatchRow)) == 1
    held.go.set()
    leased = await asyncio.gather(*(parts.batches.lease(request(run)) for _ in range(2)))
    assert leased[0] == leased[1] and leased[0].state == "leased"


async def test_leases_of_one_step_at_once_give_the_same_samples(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    await rewarded(parts, 0.0, 1.0)
    run = await claimed(parts, live={"min_episodes": 1})
    select, both = parts.batches._select, threading.Barrier(2)
    later: list[str] = []
    loop = asyncio.get_running_loop()

    def slowly(*of: Any) -> Any:
        if both.wait(10) == 0:  # The second selection also finds an episode that the first has not seen.
            chosen = select(*of)
            both.wait(10)
            return chosen
        both.wait(10)
        later.extend(asyncio.run_coroutine_threadsafe(rewarded(parts, 0.5), loop).result(10))
        return select(*of)

    monkeypatch.setattr(parts.batches, "_select", slowly)
    leases = await asyncio.gather(*(parts.batches.lease(request(run)) for _ in range(2)))
    assert leases[0] == leases[1] and leases[0].state == "leased"
    assert len(rows(parts, RunEpisodeRow)) == len(leases[0].samples)
    monkeypatch.setattr(parts.batches, "_select", select)
    assert (await parts.batches.lease(request(run))).samples == leases[0].samples


async def test_a_batch_keeps_its_samples_and_rewards_until_it_is_trained(parts: Parts) -> None:
    ids = await rewarded(parts, 0.0, 1.0)
    run = await claimed(parts, live={"min_episodes": 1})
    batch = await parts.batches.lease(request(run))
    assert {(s.episode_id, s.reward) for s in batch.samples} == {(ids[0], 0.0), (ids[1], 1.0)}
    await rewarded(parts, 0.5)
    await parts.episodes.reward(ids[0], RewardRequest(value=1.0, source="late"))
    assert (await parts.batches.lease(request(run))).samples == batch.samples
    await parts.batches.acknowledge(batch.id, BatchAck(learner="tester", state="returned"))
    assert (await parts.batches.lease(request(run))).samples == batch.samples
    await parts.privacy.erase(ids[1])
    assert [s.episode_id for s in (await parts.batches.lease(request(run))).samples] == [ids[0]]


async def test_a_step_is_trained_once_with_its_lineage_and_metrics(parts: Parts) -> None:
    ids = await rewarded(parts, 0.0, 1.0)
    run = await claimed(parts, live={"min_episodes": 1})
    with pytest.raises(Conflict) as early:
        await parts.batches.lease(request(run, replay=True))
    assert early.value.code == "batch_not_trained"
    batch = await parts.batches.lease(request(run))
    ack = BatchAck(
        learner="tester",
        state="trained",
        policy_version=None,
        metrics={"loss": 0.25},
        episodes=[TrainedEpisode(episode_id=ids[1], advantage=0.5, weight=3.0)],
    )
    for _ in range(2):
        await parts.batches.acknowledge(batch.id, ack)
    assert rows(parts, RunRow)[0].step == 1
    lineage = {row.episode_id: (row.advantage, row.weight) for row in rows(parts, RunEpisodeRow)}
    assert lineage == {ids[0]: (None, None), ids[1]: (0.5, 3.0)}
    metrics = {row.name: row.value for row in rows(parts, MetricRow)}
    assert metrics["loss"] == 0.25 and metrics["episodes"] == 2 and metrics["groups"] == 1
    with pytest.raises(Conflict) as again:
        await parts.batches.lease(request(run))
    assert again.value.code == "batch_trained"
    with pytest.raises(Conflict) as other:
        await parts.batches.acknowledge(batch.id, ack.model_copy(update={"policy_version": 0}))
    assert other.value.code == "batch_trained"
    with pytest.raises(Conflict):
        await parts.batches.acknowledge(batch.id, ack.model_copy(update={"state": "returned"}))
    replayed = await parts.batches.lease(request(run, replay=True))
    assert (replayed.state, replayed.samples) == ("leased", batch.samples)
    assert rows(parts, RunRow)[0].step == 1 and rows(parts, BatchRow)[0].state == "trained"
    assert len(rows(parts, EpisodeRow)) == 2


async def test_only_the_learner_that_holds_the_run_leases_and_acknowledges(parts: Parts) -> None:
    await rewarded(parts, 0.0, 1.0)
    run = await claimed(parts, live={"min_episodes": 1})
    batch = await parts.batches.lease(request(run))
    for learner, run_id, kind in (("other", run.id, Conflict), ("tester", "run_none", NotFound)):
        with pytest.raises(kind):
            await parts.batches.lease(request(run, learner=learner, run_id=run_id))
    with pytest.raises(Conflict) as refused:
        await parts.batches.acknowledge(batch.id, BatchAck(learner="other", state="trained", policy_version=None))
    assert refused.value.code == "lease_lost"
    with pytest.raises(NotFound) as unknown:
        await parts.batches.acknowledge("batch_none", BatchAck(learner="tester", state="returned"))
    assert unknown.value.code == "batch_not_found"
    assert rows(parts, BatchRow)[0].state == "leased" and rows(parts, RunRow)[0].step == 0
