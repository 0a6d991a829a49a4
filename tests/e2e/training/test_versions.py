"""Kept versions: loaded on demand, pinned, traced to what trained them, deleted when nothing needs them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from server.versions.settings import VersionSettings
from tests.support.live import Live
from tests.support.runs.gated import publish, served, trained
from tests.support.runs.live_rewards import new_version, talk
from tests.support.runs.scripted import FEW_LIVE, LEARNER, publication, reward_two, says
from upturn.client import UpturnAPIError
from upturn.wire import (
    BatchAck,
    BatchRequest,
    EpisodeOpen,
    FixedHorizon,
    RunClaim,
    RunConfig,
    RunRequest,
    TrainedEpisode,
)

FEW = VersionSettings(newest=1, ancestors=0, best=False, on_demand=2)


@contextmanager
def keeping(tmp_path: Path, versions: VersionSettings, weights: str = "adapter", **more: Any) -> Iterator[Live]:
    with served(tmp_path, weights, versions=versions, **more) as live:
        yield live


def kept(live: Live) -> set[int]:
    """Return the versions whose weights are kept, after comparing rows and disk."""
    views = live.client.policies().data
    by_row = {view.version for view in views if view.kept}
    assert by_row == {view.version for view in views if Path(view.path).exists()}
    return by_row


def loaded(live: Live) -> set[int]:
    return set(live.parts.engine.versions)


def tidy(live: Live) -> None:
    asyncio.run_coroutine_threadsafe(live.parts.serving.residency.tidy(), live.loop).result(timeout=60)


def later(live: Live, seconds: float) -> None:
    """Let time pass for the residency of adapters."""
    now = live.parts.serving.residency.clock() + seconds
    live.parts.serving.residency.clock = lambda: now


def test_a_kept_version_is_loaded_when_a_call_names_it_and_unloaded_when_unused(tmp_path: Path) -> None:
    with keeping(tmp_path, VersionSettings(newest=10)) as live:
        for number in range(1, 5):
            assert new_version(live, f"I am {number}") == number
        assert loaded(live) == {0, 4}, "champion and head"
        assert says(live, "policy@2") == ("I am 2", "policy@2")
        opened = live.client.open_episode(EpisodeOpen(policy="policy@3"))
        assert (opened.policy_version, talk(live.http, opened.key)) == (3, 3)
        assert loaded(live) == {0, 2, 3, 4}
        later(live, 60)
        assert says(live, "policy@1") == ("I am 1", "policy@1")
        assert loaded(live) == {0, 1, 3, 4} or loaded(live) == {0, 1, 2, 4}, (
            "at most two on demand: the one unused longest is unloaded"
        )
        later(live, 3600)
        tidy(live)
        assert loaded(live) == {0, 4}
        assert talk(live.http, opened.key) == 3, "a conversation stays on the version it began on"


def test_a_version_without_a_role_is_not_unloaded_while_it_is_checked(tmp_path: Path) -> None:
    with keeping(tmp_path, VersionSettings(idle_s=0.04)) as live:
        engine, check = live.parts.engine, live.parts.engine.spot_check

        async def slow(*asked: Any) -> Any:
            await asyncio.sleep(0.5)  # Unused adapters are unloaded every hundredth of a second.
            return await check(*asked)

        engine.spot_check = slow  # type: ignore[method-assign]
        assert new_version(live, "I am 1") == 1
        assert loaded(live) == {0, 1}
        assert says(live, "policy@head") == ("I am 1", "policy@1")


def test_versions_beyond_the_limit_on_demand_are_refused_until_one_is_free(tmp_path: Path) -> None:
    with keeping(tmp_path, VersionSettings(newest=10, on_demand=1)) as live:
        for number in range(1, 4):
            new_version(live, f"I am {number}")
        assert says(live, "policy@1")[1] == "policy@1"
        with pytest.raises(openai.APIStatusError) as refused:
            says(live, "policy@2")
        assert (refused.value.status_code, refused.value.code) == (503, "versions_busy")
        assert int(refused.value.response.headers["retry-after"]) > 0
        later(live, 60)
        assert says(live, "policy@2")[1] == "policy@2"


def test_concurrent_calls_load_a_version_once_and_all_are_answered(tmp_path: Path) -> None:
    with keeping(tmp_path, VersionSettings(newest=10)) as live:
        for number in range(1, 4):
            new_version(live, f"I am {number}")

        async def load() -> None:
            residency = live.parts.serving.residency
            await asyncio.gather(*(residency.load_on_demand(f"policy@{1 + n % 2}") for n in range(20)))

        asyncio.run_coroutine_threadsafe(load(), live.loop).result(timeout=60)
        assert loaded(live) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    "model", ["policy@9", f"policy@{2**31 - 1}", f"policy@{2**31}", "policy@x", "policy@", "policy@-1"]
)
def test_an_unknown_version_is_refused(tmp_path: Path, model: str) -> None:
    with keeping(tmp_path, FEW) as live, pytest.raises(openai.NotFoundError) as refused:
        says(live, model)
    assert refused.value.code == "model_not_found"


def test_one_engine_of_full_weights_says_why_it_cannot_serve_a_kept_version(tmp_path: Path) -> None:
    with keeping(tmp_path, VersionSettings(newest=10), "full") as live:
        new_version(live, "win", "full")
        with pytest.raises(openai.NotFoundError, match="holds one version, now policy@1; promote version 0"):
            says(live, "policy@0")


@pytest.mark.parametrize("kind", ["adapter", "full"])
def test_unneeded_versions_are_deleted_and_pinned_ones_stay(tmp_path: Path, kind: str) -> None:
    with keeping(tmp_path, FEW, kind) as live:
        assert new_version(live, "one", kind) == 1 and live.client.pin(1).pinned
        live.client.promote(1)
        for number in range(2, 6):
            new_version(live, f"I am {number}", kind)
        assert kept(live) == {0, 1, 4, 5}, "4 stays because the run of 5 started from it"
        with pytest.raises(UpturnAPIError) as refused:
            live.client.promote(2)
        assert refused.value.code == "version_not_found"
        with pytest.raises(UpturnAPIError) as refused:
            live.client.pin(2)
        assert refused.value.code == "version_not_found"
        live.client.promote(5)
        live.client.unpin(1)
        new_version(live, "six", kind)
        new_version(live, "seven", kind)
        assert (1 in kept(live)) == (kind == "adapter"), "with adapters it is still the previous champion"
        live.client.rollback()


def test_ancestors_the_previous_champion_and_the_best_of_an_environment_stay(tmp_path: Path) -> None:
    with keeping(tmp_path, VersionSettings(newest=4, ancestors=2, best=True)) as live:
        assert trained(live, "win", "adapter").gate == "promoted"
        for number in range(2, 6):
            new_version(live, f"I am {number}")
        live.client.promote(5)
        live.client.promote(4)
        for number in range(6, 11):
            new_version(live, f"I am {number}")
        assert kept(live) == {0, 1, 2, 3, 4, 5, 7, 8, 9, 10}, (
            "1 is the best, 2 and 3 are ancestors of 4, 5 is the previous champion"
        )


def test_a_deletion_interrupted_by_a_crash_is_completed_at_the_next_start(tmp_path: Path) -> None:
    with keeping(tmp_path, FEW) as live:
        for number in range(1, 4):
            new_version(live, f"I am {number}")
        gone = next(Path(view.path) for view in live.client.policies().data if not view.kept)
        gone.mkdir()
        (gone / "left").write_text("behind")
    with keeping(tmp_path, FEW) as live:
        assert not gone.exists() and kept(live) == {0, 2, 3}


def test_lineage_lists_the_versions_and_episodes_a_version_was_trained_from(live: Live) -> None:
    first = reward_two(live)
    live.client.create_run(RunRequest(config=RunConfig(steps=2, live=FEW_LIVE)))
    run = live.client.claim_run(RunClaim(learner=LEARNER))
    assert run is not None
    second: list[str] = []
    for step in range(2):
        batch = live.client.lease_batch(BatchRequest(run_id=run.id, learner=LEARNER, step=step, horizon=5))
        version = live.client.publish(publication(live, run.id, "Better" + "!" * step, step=step)).version
        ours = first if step == 0 else second
        assert sorted({s.episode_id for s in batch.samples}) == sorted(ours)
        live.client.acknowledge_batch(
            batch.id,
            BatchAck(
                learner=LEARNER,
                state="trained",
                policy_version=version,
                episodes=[TrainedEpisode(episode_id=e, advantage=1.0 - step, weight=7) for e in ours],
            ),
        )
        second = reward_two(live, group="h")
    one, two = live.client.lineage(1), live.client.lineage(2)
    assert [p.version for p in two.parents] == [1, 0] and [p.version for p in one.parents] == [0]
    assert (two.run_id, two.parents[0].step, two.parents[0].kept, two.parents[1].run_id) == (run.id, 0, True, None)
    assert sorted(e.episode_id for e in one.episodes) == sorted(first) and one.trained_episodes == 2
    assert {(e.step, e.advantage, e.weight) for e in two.episodes} == {(1, 0.0, 7.0)} and two.trained_episodes == 2
    assert len(live.http.get("/v1/policies/1/lineage?limit=1").json()["episodes"]) == 1
    live.client.erase_episode(first[0])
    erased = live.client.lineage(1)
    assert (erased.trained_episodes, erased.erased_episodes) == (1, 1)
    assert live.client.lineage(0).parents == [] == live.client.lineage(0).episodes
    with pytest.raises(UpturnAPIError) as refused:
        live.client.lineage(9)
    assert refused.value.code == "version_not_found"


def test_a_paused_run_keeps_the_version_it_continues_from(tmp_path: Path) -> None:
    with keeping(tmp_path, FEW) as live:
        live.client.create_run(RunRequest(config=RunConfig(steps=1, kind="adapter", schedule=FixedHorizon(horizon=2))))
        run = live.client.claim_run(RunClaim(learner=LEARNER))
        assert run is not None
        assert publish(live.client, live.parts.settings.data_dir, run, "one") == 1
        assert live.http.post(f"/v1/runs/{run.id}/pause").status_code == 200
        for number in range(2, 5):
            new_version(live, f"I am {number}")
        assert kept(live) == {0, 1, 3, 4}
