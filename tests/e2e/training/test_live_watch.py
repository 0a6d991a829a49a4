"""The live-reward watch: a version that earns less is rolled back, once, and the ledger says why."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa

from server.training.settings import WatchSettings
from tests.support.live import Live, script, until
from tests.support.postgres import running_postgres
from tests.support.process import process
from tests.support.runs.gated import begin, publish, served, trained
from tests.support.runs.live_rewards import (
    AGES,
    HOURS_S,
    age,
    aging,
    check_watch,
    earn,
    newest,
    promoted,
    talk,
)
from tests.support.runs.scripted import LEARNER, says
from upturn.client import Client
from upturn.wire import EpisodeOpen, FixedHorizon, LiveEvidence, RewardRequest, RunClaim, RunConfig, RunRequest

WATCH = WatchSettings(min_episodes=8, window=12)


@contextmanager
def watched(tmp_path: Path, weights: str = "adapter", watch: WatchSettings = WATCH, **more: Any) -> Iterator[Live]:
    with served(tmp_path, weights, watch=watch, **more) as live:
        yield live


def fallen(live: Live) -> None:
    """Promote version 1 after rewards of 1, and reward it with 0."""
    earn_before(live)
    promoted(live)
    earn(live.client, live.http, 0.0)


def earn_before(live: Live) -> None:
    """Earn rewards of 1 that are mature at the promotion that comes next."""
    earn(live.client, live.http, 1.0)
    age(live)


@pytest.mark.parametrize("kind", ["adapter", "full"])
def test_a_promoted_version_that_earns_less_is_rolled_back_automatically(tmp_path: Path, kind: str) -> None:
    with watched(tmp_path, kind) as live:
        earn_before(live)
        assert trained(live, "win", kind).gate == "promoted" and says(live) == ("win", "policy@1")
        earn(live.client, live.http, 0.0)
        check_watch(live)
        row = newest(live)
        assert (row.from_version, row.to_version, row.decided_by) == (1, 0, "watch")
        assert "mean live reward 0.000 over" in row.reason and "1.000 over as many of version 0" in row.reason
        assert isinstance(row.evidence, LiveEvidence) and row.evidence.worse
        assert row.evidence.e_value >= 1 / WATCH.alpha and row.evidence.rule["alpha"] == WATCH.alpha
        assert says(live) == says(live, "policy@head") == ("add 1", "policy@0")
        assert begin(live.client, kind).first_version == 0, "the next run must not build on it"


def test_a_version_that_earns_as_much_or_has_few_rewards_stays(tmp_path: Path) -> None:
    with watched(tmp_path) as live:
        earn_before(live)
        promoted(live)
        earn(live.client, live.http, 0.0, count=WATCH.min_episodes - 1)
        check_watch(live)
        assert newest(live).action == "promote"
        live.client.promote(0)
        live.client.promote(1)  # Promoted again: earlier rewards do not count.
        earn(live.client, live.http, 1.0)
        check_watch(live)
        assert newest(live).action == "promote" and says(live) == ("win", "policy@1")


def test_the_watch_rolls_back_once_and_does_not_flap(tmp_path: Path) -> None:
    with watched(tmp_path) as live:
        fallen(live)

        async def checks() -> None:
            live.parts.watch.clock = lambda: time.time() + HOURS_S
            await asyncio.gather(*(live.parts.watch.check() for _ in range(3)))

        asyncio.run_coroutine_threadsafe(checks(), live.loop).result(timeout=60)
        earn(live.client, live.http, 0.0)  # The previous version earns as little now, which must not roll it back.
        check_watch(live)
        assert [p.action for p in live.client.promotions().data] == ["rollback", "promote", "first"]


def test_only_live_episodes_of_the_version_itself_count(tmp_path: Path) -> None:
    with watched(tmp_path) as live:
        earn_before(live)
        promoted(live)
        earn(live.client, live.http, 0.0, count=WATCH.min_episodes - 1)
        mixed, silent = live.client.open_episode(EpisodeOpen()), live.client.open_episode(EpisodeOpen())
        old = live.client.open_episode(EpisodeOpen(policy="policy@0"))
        assert [talk(live.http, mixed.key), talk(live.http, mixed.key, "policy@0")] == [1, 0]
        assert talk(live.http, old.key) == 0
        imported = live.client.open_episode(EpisodeOpen())
        assert talk(live.http, imported.key) == 1
        for episode in (mixed, silent, old, imported):
            live.client.reward(episode.id, RewardRequest(value=0.0))
        nobodys = sa.text(f"update episode set owner_hash = null where id = '{imported.id}'")
        live.parts.writer.submit(lambda session: session.execute(nobodys)).result(timeout=60)
        check_watch(live)
        assert newest(live).action == "promote"


def test_a_pinned_champion_stays_until_it_is_unpinned(tmp_path: Path) -> None:
    with watched(tmp_path) as live:
        earn_before(live)
        promoted(live)
        assert live.client.pin(1).pinned
        earn(live.client, live.http, 0.0)
        check_watch(live)
        assert newest(live).action == "promote" and says(live) == ("win", "policy@1")
        assert not live.client.unpin(1).pinned
        check_watch(live)
        assert newest(live).action == "rollback"


def test_the_watch_never_rolls_back_to_deleted_weights(tmp_path: Path) -> None:
    with watched(tmp_path) as live:
        promoted(live, "add 1")
        earn_before(live)
        promoted(live)
        gone = sa.text("update policy_version set state = 'retired' where version = 1")
        live.parts.writer.submit(lambda session: session.execute(gone)).result(timeout=60)
        earn(live.client, live.http, 0.0)
        check_watch(live)
        assert newest(live).action == "promote" and says(live) == ("win", "policy@2")


def test_a_disabled_watch_changes_nothing(tmp_path: Path) -> None:
    with watched(tmp_path, watch=WATCH.model_copy(update={"enabled": False})) as live:
        fallen(live)
        check_watch(live)
        assert newest(live).action == "promote"


def test_after_a_kill_the_watch_continues_from_the_recorded_rewards(tmp_path: Path) -> None:
    flags = ("--engine.kind", "scripted", "--weights", "adapter", "--watch.min-episodes", "8", "--watch.window", "12")
    model, data = script(tmp_path / "script", "add 1"), tmp_path / "data"

    def wait(**more: tuple[str, ...]) -> None:
        with closing(sqlite3.connect(data / "upturn.db", timeout=60)) as database, database:
            for change in aging(AGES | more):
                database.execute(str(change))

    with process(data, model, *flags) as (server, url), Client(url) as client, httpx2.Client(base_url=url) as http:
        earn(client, http, 1.0)
        wait()
        client.create_run(RunRequest(config=RunConfig(steps=1, kind="adapter", schedule=FixedHorizon(horizon=2))))
        run = client.claim_run(RunClaim(learner=LEARNER))
        assert run is not None
        client.promote(publish(client, data, run, "win"))
        earn(client, http, 0.0, count=7)
        server.kill()
    wait(promotion=("created_at",))
    with process(data, model, *flags) as (server, url), Client(url) as client, httpx2.Client(base_url=url) as http:
        assert client.promotions().data[0].action == "promote"
        earn(client, http, 0.0, count=5)
        server.kill()
    wait(promotion=("created_at",))
    with process(data, model, *flags) as (_, url), Client(url) as client:
        until(lambda: client.promotions().data[0].action == "rollback", "no rollback")
        assert next(p for p in client.policies().data if p.champion).version == 0


def test_all_rewards_that_an_episode_has_at_the_age_of_reading_count(tmp_path: Path) -> None:
    with watched(tmp_path) as live:
        earn_before(live)
        promoted(live)
        earn(live.client, live.http, 0.0)
        check_watch(live, at=time.time())
        assert newest(live).action == "promote", "no reward is mature"
        for episode in live.client.episodes(limit=12).data:
            live.client.reward(episode.id, RewardRequest(value=1.0))
        check_watch(live)
        assert newest(live).action == "promote", "rewards before the age count"


@pytest.mark.postgres
def test_live_rewards_decide_on_postgresql(tmp_path: Path) -> None:
    with running_postgres() as server, watched(tmp_path, database_url=server.url) as live:
        fallen(live)
        check_watch(live)
        assert newest(live).action == "rollback" and says(live) == ("add 1", "policy@0")
