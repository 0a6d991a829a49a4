"""The canary: a share of live traffic gets a candidate that the gate approved, before all of it does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from server.app import create_app
from server.section import SettingsError
from server.training.settings import CanarySettings, WatchSettings
from tests.support.live import Live, script, settings_for
from tests.support.runs.gated import served, trained
from tests.support.runs.live_rewards import check_watch, earn, newest, talk
from tests.support.runs.scripted import LEARNER, says
from upturn.wire import EpisodeOpen, GateEvidence, LiveEvidence, RunClaim, RunConfig, RunRequest, RunView

WATCH = WatchSettings(min_episodes=8, window=40, low=0.0)
CANARY = CanarySettings(share=0.5, min_episodes=10, max_hours=24)


@contextmanager
def trying(tmp_path: Path, canary: CanarySettings = CANARY, **more: Any) -> Iterator[tuple[Live, RunView]]:
    """Serve with version 1 approved by the gate and in the canary."""
    with served(tmp_path, "adapter", watch=WATCH, canary=canary, **more) as live:
        run = trained(live, "win", "adapter")
        assert run.gate == "canary"
        yield live, run


def versions_opened(live: Live) -> set[int | None]:
    return {live.client.open_episode(EpisodeOpen()).policy_version for _ in range(40)}


def until_decided(live: Live, rewards: dict[int, float]) -> None:
    for _ in range(20):
        earn(live.client, live.http, rewards)
        check_watch(live)
        if newest(live).action != "canary":
            return
    raise AssertionError("nothing was decided")


def test_a_candidate_serves_a_share_of_live_traffic_and_is_then_promoted(tmp_path: Path) -> None:
    with trying(tmp_path) as (live, run):
        begun = newest(live)
        assert (begun.action, begun.from_version, begun.to_version, begun.decided_by) == ("canary", 1, 0, "gate")
        assert isinstance(begun.evidence, GateEvidence) and begun.run_id == run.id
        shown = {p.version: (p.champion, p.canary, p.head) for p in live.client.policies().data}
        assert shown == {0: (True, False, False), 1: (False, True, True)}
        assert versions_opened(live) == {0, 1}
        assert says(live, "policy@0")[1] == says(live, "policy@champion")[1] == "policy@0"
        assert says(live, "policy@1")[1] == "policy@1"
        until_decided(live, {0: 1.0, 1: 1.0})
        ended = newest(live)
        assert (ended.action, ended.from_version, ended.to_version, ended.decided_by) == ("promote", 0, 1, "canary")
        assert isinstance(ended.evidence, LiveEvidence) and not ended.evidence.worse and ended.run_id == run.id
        assert live.client.run(run.id).gate == "promoted"
        assert set(earn(live.client, live.http, 1.0)) == {1}


def test_a_candidate_that_earns_less_is_rejected_and_the_next_run_begins_from_the_champion(tmp_path: Path) -> None:
    with trying(tmp_path) as (live, run):
        until_decided(live, {0: 1.0, 1: 0.0})
        ended = newest(live)
        assert (ended.action, ended.from_version, ended.to_version, ended.decided_by) == ("reject", 1, 0, "canary")
        assert isinstance(ended.evidence, LiveEvidence) and ended.evidence.worse
        assert live.client.run(run.id).gate == "rejected"
        assert set(earn(live.client, live.http, 1.0)) == {0} and says(live, "policy@head")[1] == "policy@0"


def test_an_episode_stays_on_the_version_it_began_on(tmp_path: Path) -> None:
    with trying(tmp_path) as (live, _):
        opened = [live.client.open_episode(EpisodeOpen()) for _ in range(40)]
        assert {episode.policy_version for episode in opened} == {0, 1}
        for episode in opened:
            assert [talk(live.http, episode.key) for _ in range(2)] == [episode.policy_version] * 2


def test_all_episodes_of_a_key_get_the_same_version(tmp_path: Path) -> None:
    with trying(tmp_path, CANARY.model_copy(update={"by": "key"})) as (live, _):
        versions = [{talk(live.http, f"sk-{key}") for _ in range(3)} for key in range(12)]
        assert all(len(of_key) == 1 for of_key in versions) and set.union(*versions) == {0, 1}


def test_no_run_starts_during_a_canary_and_a_promotion_by_hand_ends_it(tmp_path: Path) -> None:
    with trying(tmp_path) as (live, run):
        live.client.create_run(RunRequest(config=RunConfig(steps=1, kind="adapter")))
        assert live.client.claim_run(RunClaim(learner=LEARNER)) is None
        live.client.promote(0, "not this one")
        assert live.client.run(run.id).gate == "void" and set(earn(live.client, live.http, 1.0)) == {0}
        check_watch(live)
        assert newest(live).reason == "not this one"
        assert live.client.claim_run(RunClaim(learner=LEARNER)) is not None


def test_a_candidate_not_known_to_be_worse_is_promoted_after_the_maximum_time(tmp_path: Path) -> None:
    with trying(tmp_path) as (live, run):
        check_watch(live)
        assert newest(live).action == "canary"
        check_watch(live, at=newest(live).created_at + 24 * 3600)
        assert (newest(live).action, live.client.run(run.id).gate) == ("promote", "promoted")
        assert newest(live).reason == "0 rewarded episodes of each within 24 hours"


def test_a_restart_continues_the_canary_and_without_the_setting_promotes_it(tmp_path: Path) -> None:
    with trying(tmp_path):
        pass
    with served(tmp_path, "adapter", watch=WATCH, canary=CANARY) as live:
        check_watch(live)
        assert newest(live).action == "canary" and versions_opened(live) == {0, 1}
    with served(tmp_path, "adapter", watch=WATCH) as live:
        check_watch(live)
        assert newest(live).action == "promote" and says(live) == ("win", "policy@1")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"canary\.share needs adapters"),
        (
            {"canary": CANARY.model_copy(update={"min_episodes": 2})},
            r"canary\.min_episodes = 2 episodes are too few .* it takes 3",
        ),
        (
            {"watch": WATCH.model_copy(update={"maturity_h": 24.0})},
            r"canary\.max_hours = 24 hours end before a reward is read",
        ),
        (
            {"watch": WATCH.model_copy(update={"min_drop": 0.999})},
            r"watch\.window = 40 .* no number of episodes is enough",
        ),
    ],
)
async def test_settings_that_cannot_serve_or_judge_a_canary_are_refused_at_the_start(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    model = str(script(tmp_path / "script", "Hi"))
    app = create_app(settings_for(tmp_path / "data", model=model, **({"watch": WATCH, "canary": CANARY} | settings)))
    with pytest.raises(SettingsError, match=message):
        async with app.router.lifespan_context(app):
            pass
