"""Live episodes are used once: over many nights of runs, on a real database with a clock that the test moves."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import sqlalchemy as sa

import migrations
from server.environments.plays import Plays
from server.errors import Conflict
from server.store.database import Database, new_id
from server.store.tables import EpisodeRow, PolicyVersionRow, PromotionRow, RewardRow, RewardSourceRow, TurnRow
from server.store.writer import Writer
from server.training.batches import Batches
from server.training.gate import PromotionGate
from server.training.runs import Runs
from server.training.scheduling.schedule import Schedule
from server.training.scheduling.settings import ScheduleSettings
from server.versions.routing import Pointers
from upturn.wire import (
    BatchAck,
    BatchRequest,
    BatchView,
    EpisodesTrigger,
    RunClaim,
    RunConfig,
    RunEnd,
    RunView,
    TrainedEpisode,
    TriggerCreate,
)

pytestmark = pytest.mark.anyio
DAY = 86_400.0


class Site:
    """A server's record and its runs, with the test as the agents and as the learner."""

    def __init__(self, url: str, **live: Any) -> None:
        self.now = 1_000_000.0
        self.database = Database(url)
        migrations.upgrade(self.database.writer)
        self.writer = Writer(self.database.writer)
        self.pointers = Pointers("policy")
        clock = lambda: self.now  # noqa: E731
        self.runs = Runs(self.database, self.writer, self.pointers, 60.0, clock)
        self.batches = Batches(self.database, self.writer, cast(Plays, None), self.pointers, cast(PromotionGate, None))
        self.config = self.config_of(**live)
        self.schedule = Schedule(ScheduleSettings(run=self.config), self.database, self.writer, self.runs, None, clock)
        self.trained: Counter[str] = Counter()
        """How often each episode was trained by runs that neither failed nor were cancelled."""

    def config_of(self, algorithm: str = "reinforce_pp", steps: int = 8, **live: Any) -> RunConfig:
        fields = {"algorithm": algorithm, "steps": steps, "kind": "adapter", "live": {"limit": 8, **live}}
        return RunConfig.model_validate(fields)

    async def write(self, *rows: Any) -> None:
        await self.writer.write(lambda session: session.add_all(rows))

    async def talk(
        self, count: int, *rewards: float, version: int | None = None, group: str | None = None
    ) -> list[str]:
        """Record ended episodes, each with these rewards."""
        episodes = [
            EpisodeRow(
                id=new_id("ep"), status="closed", seed=0, horizon=9, group_key=group, purpose="other", policy_version=0,
                trainable=True, details={}, opened_at=self.now, closed_at=self.now,
            )
            for _ in range(count)
        ]  # fmt: skip
        await self.write(*episodes)
        sampled_by = self.pointers.champion if version is None else version
        await self.write(
            *(
                TurnRow(
                    id=new_id("turn"), episode_id=episode.id, index=0, digest="", messages=[], answer={},
                    finish_reason="stop", prompt_tokens=1, completion_tokens=1, policy_version=sampled_by,
                    temperature=1.0, trainable=True, forked=False, duration_ms=1.0, created_at=self.now,
                )
                for episode in episodes
            )
        )  # fmt: skip
        ids = [episode.id for episode in episodes]
        for value in rewards:
            await self.reward(ids, value)
        return ids

    async def reward(self, ids: list[str], value: float = 1.0, source: str = "user") -> None:
        await self.write(
            *(RewardRow(id=new_id("rw"), episode_id=i, value=value, source=source, created_at=self.now) for i in ids)
        )

    async def publish(self, version: int, *, promote: bool) -> None:
        """Record a new head, and perhaps promote it."""
        before = self.pointers.champion
        versions = [
            PolicyVersionRow(version=v, name="policy", state="ready", kind="adapter", path="p", created_at=self.now)
            for v in range(self.pointers.head + 1, version + 1)
        ]
        await self.write(*versions)
        self.pointers.head = version
        if promote:
            entry = {"reason": "tested", "created_at": self.now, "action": "promote"}
            await self.write(PromotionRow(from_version=before, to_version=version, **entry))
            self.pointers.champion = version

    async def first(self) -> None:
        """Record the base."""
        self.pointers.head = -1
        await self.publish(0, promote=False)
        await self.write(PromotionRow(to_version=0, action="first", reason="tested", created_at=self.now))

    async def begin(self, config: RunConfig | None = None) -> RunView:
        """Claim the queued run, or a new one."""
        if config is not None:
            await self.runs.create(config, "request")
        run = await self.runs.claim(RunClaim(learner="learner"))
        assert run is not None
        return run

    async def lease(self, run: RunView, step: int) -> BatchView:
        return await self.batches.lease(BatchRequest(run_id=run.id, learner="learner", step=step, horizon=9))

    def leased(self, batch: BatchView) -> list[str]:
        """Return the episodes of a batch; they have no tokens here, so it has no samples."""
        query = sa.text("select episode_id from run_episode where batch_id = :id order by 1")
        with self.database.read() as session:
            return list(session.scalars(query, {"id": batch.id}))

    async def step(self, run: RunView, step: int) -> list[str]:
        """Train one step; return its episodes."""
        batch = await self.lease(run, step)
        ids = self.leased(batch)
        ack = BatchAck(
            learner="learner",
            state="trained",
            policy_version=self.pointers.head + 1 if ids else None,
            episodes=[TrainedEpisode(episode_id=i, advantage=0.5, weight=3.0) for i in ids],
            metrics={"trained_tokens": 3.0 * len(ids), **({} if ids else {"skipped": 1.0})},
        )
        if ids:
            await self.publish(self.pointers.head + 1, promote=False)
        await self.batches.acknowledge(batch.id, ack)
        return ids

    async def train(self, run: RunView) -> list[list[str]]:
        """Train a run to its end; return the episodes of each step."""
        steps = [await self.step(run, number) for number in range(run.config.steps)]
        self.trained.update(i for ids in steps for i in ids)
        await self.end(run)
        return steps

    async def end(self, run: RunView, state: str = "done") -> RunView:
        end = RunEnd.model_validate({"learner": "learner", "state": state, "reason": "all steps are done"})
        return await self.runs.end(run.id, end)

    async def fired(self) -> bool:
        """Check the schedule; return whether a trigger has started a run."""
        before = len(await self.runs.views())
        await self.schedule.check()
        return len(await self.runs.views()) > before


Make = Callable[..., Site]


def together(steps: list[list[str]]) -> list[str]:
    """Return the episodes of all steps."""
    return [i for ids in steps for i in ids]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    sites: list[Site] = []

    def one(**live: Any) -> Site:
        sites.append(Site(f"sqlite:///{tmp_path / 'upturn.db'}", **live))
        return sites[-1]

    yield one
    for site in sites:
        site.writer.close()
        site.database.close()


async def test_versions_that_a_run_publishes_make_no_live_episode_stale(make: Make) -> None:
    site = make()
    await site.first()
    await site.talk(40, 0.5)
    run = await site.begin(site.config)
    assert [len(ids) for ids in await site.train(run)] == [8] * 5 + [0] * 3
    assert set(site.trained.values()) == {1}
    why = [step.nothing_to_learn for step in (await site.runs.view(run.id)).steps]
    assert why == [None] * 5 + ["40 live episodes already used"] * 3


async def test_a_head_that_nobody_promoted_makes_no_episode_of_the_champion_stale(make: Make) -> None:
    site = make()
    await site.first()
    for night in range(3):
        await site.talk(12, 0.5)
        run = await site.begin(site.config_of(steps=2, min_episodes=4))
        assert [len(ids) for ids in await site.train(run)] == [8, 4], night
    assert site.pointers == Pointers("policy", champion=0, head=6)


async def test_staleness_counts_the_versions_that_served_live_agents(make: Make) -> None:
    site = make()
    await site.first()
    for version in (40, 80, 120):
        await site.talk(8, 0.5)
        await site.publish(version, promote=True)
    run = await site.begin(site.config_of(steps=2).model_copy(update={"max_staleness": 2}))
    assert [len(ids) for ids in await site.train(run)] == [8, 8], "the episodes of versions 40 and 80"
    await site.talk(8, 0.5, version=80)
    run = await site.begin(site.config_of(steps=1).model_copy(update={"max_staleness": 0}))
    assert await site.train(run) == [[]]
    assert (await site.runs.view(run.id)).steps[0].nothing_to_learn == (
        "16 live episodes already used, 16 live episodes too old for max_staleness"
    )


@pytest.mark.parametrize("algorithm", ["sft", "dpo", "agent_evol", "reinforce_pp", "grpo"])
async def test_no_algorithm_takes_an_episode_that_a_run_has_used(make: Make, algorithm: str) -> None:
    site = make()
    await site.first()
    for number in range(10):
        for value in (1.0, 0.0):
            await site.talk(1, value, group=f"g{number}")
    config = site.config_of(algorithm, steps=2, min_episodes=2, limit=10)
    used = together(await site.train(await site.begin(config)))
    assert len(used) == (10 if algorithm in ("sft", "agent_evol") else 20)
    again = await site.begin(config)
    assert await site.train(again) == [[], []]
    ended = await site.runs.view(again.id)
    assert (ended.state, ended.trained_steps, ended.last_version) == ("done", 0, None)
    assert ended.reason is not None and ended.reason.startswith("0 episodes trained, because ")
    assert f"{len(used)} live episodes already used" in ended.reason
    twice = site.config_of(algorithm, steps=2, min_episodes=2, limit=10, unused_only=False, max_reuse=2)
    assert sorted(together(await site.train(await site.begin(twice)))) == sorted(used)
    assert await site.train(await site.begin(twice)) == [[], []]
    ever = twice.model_copy(update={"live": twice.live and twice.live.model_copy(update={"max_reuse": None})})
    assert sorted(together(await site.train(await site.begin(ever)))) == sorted(used)


@pytest.mark.parametrize("state", ["failed", "cancelled"])
async def test_a_run_that_does_not_end_well_uses_nothing(make: Make, state: str) -> None:
    site = make()
    await site.first()
    ids = await site.talk(16, 0.5)
    run = await site.begin(site.config)
    first = await site.step(run, 0)
    await (site.runs.cancel(run.id) if state == "cancelled" else site.end(run, state))
    steps = await site.train(await site.begin(site.config_of(steps=2)))
    assert len(first) == 8 and sorted(together(steps)) == sorted(ids)


@pytest.mark.parametrize("state", ["failed", "cancelled"])
async def test_a_campaigns_run_that_does_not_end_well_has_used_what_it_trained(make: Make, state: str) -> None:
    site = make()
    await site.first()
    ids = await site.talk(16, 0.5)
    config = site.config.model_copy(update={"campaign": "nightly"})
    run = await site.begin(config)
    first = await site.step(run, 0)
    await (site.runs.cancel(run.id) if state == "cancelled" else site.end(run, state))
    steps = await site.train(await site.begin(config.model_copy(update={"steps": 2})))
    assert sorted(together(steps)) == sorted(set(ids) - set(first)), "the campaign continues the trained step"


async def test_a_batch_that_was_leased_and_not_trained_uses_nothing(make: Make) -> None:
    site = make()
    await site.first()
    await site.talk(8, 0.5)
    run = await site.begin(site.config)
    assert len(site.leased(await site.lease(run, 0))) == 8
    await site.end(run)
    assert [len(ids) for ids in await site.train(await site.begin(site.config_of(steps=1)))] == [8]


async def test_the_episodes_of_a_paused_run_are_reserved_for_it(make: Make) -> None:
    site = make()
    await site.first()
    await site.talk(16, 0.5)
    paused = await site.begin(site.config_of(steps=1))
    held = site.leased(await site.lease(paused, 0))
    await site.runs.pause(paused.id)
    with pytest.raises(Conflict):
        await site.lease(paused, 0)
    other = await site.train(await site.begin(site.config_of(steps=2)))
    assert [len(ids) for ids in other] == [8, 0] and not set(held) & set(other[0])
    await site.runs.resume(paused.id)
    assert await site.train(await site.begin()) == [held]


async def test_a_few_live_episodes_train_no_step_and_are_kept(make: Make) -> None:
    site = make()
    await site.first()
    few = await site.talk(2, 0.5)
    run = await site.begin(site.config_of(steps=1))
    assert await site.train(run) == [[]]
    view = await site.runs.view(run.id)
    assert view.reason is not None and view.reason.startswith(
        "0 episodes trained, because 2 usable live episodes, fewer than live.min_episodes; "
    )
    assert site.pointers.head == 0
    more = await site.talk(6, 0.5)
    assert [sorted(ids) for ids in await site.train(await site.begin(site.config_of(steps=1)))] == [sorted(few + more)]


async def test_rewards_that_do_not_count_hide_no_episode(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.training.data.live_episodes.PAGE", 10)
    monkeypatch.setattr("server.training.data.live_episodes.PAGES", 1)
    site = make(min_episodes=10)
    await site.first()
    await site.write(RewardSourceRow(name="crowd", weight=0.0, cap=None, blocked=False, set_by="api", changed_at=0.0))
    wanted: list[str] = []
    for source, count in (("crowd", 30), ("user", 10), ("crowd", 30)):
        site.now += 1
        ids = await site.talk(count)
        await site.reward(ids, source=source)
        wanted += ids if source == "user" else []
    config = site.config_of(steps=1, limit=10, min_rewards=1)
    assert [sorted(ids) for ids in await site.train(await site.begin(config))] == [sorted(wanted)]


async def test_a_trigger_counts_what_its_run_takes(make: Make) -> None:
    site = make(algorithm="grpo", sources=["user"], min_rewards=1, min_episodes=2, limit=4)
    await site.first()
    trigger = EpisodesTrigger(kind="episodes", count=4)
    await site.schedule.store_settings()
    await site.schedule.add(TriggerCreate(name="t", trigger=trigger))
    await site.talk(6, 1.0, group="flat")
    await site.talk(6, 1.0)
    await site.talk(3, 1.0, group="large")
    await site.talk(2, 0.0, group="large")
    for value in (0.0, 1.0):
        await site.reward(await site.talk(1, group="other"), value, source="elsewhere")
    (late,) = await site.talk(1, group="late")
    await site.talk(1, 1.0, group="late")
    for value in (0.0, 1.0):
        await site.talk(1, value, group="good")
    assert not await site.fired()
    assert (await site.schedule.view()).triggers[0].waits_for == "2 of 4 newly scored episodes"
    site.now += 60
    await site.reward([late], 0.0)
    assert await site.fired()
    run = await site.begin()
    steps = await site.train(run)
    assert [len(ids) for ids in steps[:2]] == [4, 0]
    assert not await site.fired()


async def test_every_scored_episode_is_trained_once_over_thirty_nights_of_late_partial_and_repeated_rewards(
    make: Make,
) -> None:
    rng, site = random.Random(7), make(min_rewards=2, min_episodes=1, steps=12)
    await site.first()
    await site.schedule.add(TriggerCreate(name="t", trigger=EpisodesTrigger(kind="episodes", count=12)))
    waiting: list[tuple[int, str]] = []
    complete: set[str] = set()
    runs = 0
    for night in range(30):
        for _ in range(6):
            site.now += 1000 + rng.random()
            fresh = await site.talk(3, 0.5)
            complete |= set(fresh[:1])
            await site.reward(fresh[:1])  # At once; the others get their second reward today or tomorrow, or never.
            waiting += [(night + rng.randrange(2), fresh[1])]
            due = [i for when, i in waiting if when <= night and rng.random() < 0.7]
            await site.reward(due)
            waiting = [(when, i) for when, i in waiting if i not in due]
            complete |= set(due)
            await site.reward(rng.sample(sorted(complete), min(2, len(complete))))  # Repeated: nothing new.
            untrained = complete - set(site.trained)
            if not await site.fired():
                continue
            runs += 1
            assert len(untrained) >= 12
            run = await site.begin()
            if rng.random() < 0.25:  # Its learner dies in the middle, and the run is cancelled.
                await site.step(run, 0)
                await site.runs.cancel(run.id)
                continue
            taken = together(await site.train(run))
            assert sorted(taken) == sorted(untrained), "the run gets all that was scored, and nothing else"
            await site.publish(site.pointers.head, promote=rng.random() < 0.3)
    assert runs > 10
    assert set(site.trained.values()) == {1}
    assert len(complete - set(site.trained)) < 3 * 12
