"""External rewards: sources are weighted, capped and blocked, and batches keep the rewards they used."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from server.__main__ import main
from server.rewards.settings import RewardSettings
from server.store.tables import RunEpisodeRow
from server.training.scheduling.activity import scored_since
from tests.support.live import Live, script, serving, settings_for
from tests.support.runs.scripted import ASK, FEW_LIVE, LEARNER, claim, lease, reward_two
from upturn.client import Client
from upturn.wire import (
    BatchAck,
    BatchRequest,
    EpisodeOpen,
    RewardRequest,
    RewardRule,
    RunClaim,
    RunConfig,
    RunEnd,
    RunRequest,
)


def rewarded(live: Live, *given: tuple[str, float]) -> str:
    """Return an ended live episode with these (source, value) rewards."""
    opened = live.client.open_episode(EpisodeOpen())
    live.openai(key=opened.key).chat.completions.create(model="policy", messages=ASK)
    for source, value in given:
        live.client.reward(opened.id, RewardRequest(source=source, value=value))
    live.client.close_episode(opened.id)
    return opened.id


def sources(client: Client) -> dict[str, tuple[float, float | None, bool, str | None, int, float | None]]:
    return {s.name: (s.weight, s.cap, s.blocked, s.set_by, s.count, s.mean) for s in client.reward_sources().data}


def test_a_source_counts_by_its_rule_and_raw_rewards_are_unchanged(live: Live) -> None:
    episode = rewarded(live, ("user", 1.0), ("user", 2.0), ("team/a b?", -1.0))
    assert live.client.episode(episode).reward == 2.0
    live.client.set_reward_source("user", RewardRule(weight=0.5, cap=2.0))
    live.client.set_reward_source("team/a b?", RewardRule(blocked=True))
    view = live.client.episode(episode)
    assert view.reward == 1.0
    assert [(r.source, r.value) for r in view.rewards] == [("user", 1.0), ("user", 2.0), ("team/a b?", -1.0)]
    assert sources(live.client) == {
        "*": (1.0, 100.0, False, "settings", 0, None),
        "user": (0.5, 2.0, False, "api", 2, 1.5),
        "team/a b?": (1.0, 100.0, True, "api", 1, -1.0),
    }
    live.client.set_reward_source("user", RewardRule(blocked=True))
    assert live.client.episode(episode).reward is None, "no reward counts, which is not 0"
    live.client.set_reward_source("user", RewardRule(blocked=False))
    assert live.client.episode(episode).reward == 1.0, "weight and cap are unchanged"


def test_a_rule_set_by_api_takes_precedence_until_it_is_removed(tmp_path: Path) -> None:
    model = str(script(tmp_path / "script", "Hello there."))
    first = RewardSettings(sources={"user": RewardRule(weight=2.0), "gone": RewardRule()}, default_weight=0.0)
    with serving(settings_for(tmp_path / "data", model=model, rewards=first)) as live:
        episode = rewarded(live, ("user", 1.0), ("stranger", 5.0))
        assert live.client.episode(episode).reward == 2.0
        live.client.set_reward_source("user", RewardRule(weight=3.0))
        live.client.set_reward_source("*", RewardRule(weight=1.0))
        assert live.client.episode(episode).reward == 8.0
    second = RewardSettings(sources={"user": RewardRule(weight=10.0)}, default_cap=1.0)
    with serving(settings_for(tmp_path / "data", model=model, rewards=second)) as live:
        assert sources(live.client).keys() == {"*", "user", "stranger"}
        assert live.client.episode(episode).reward == 8.0
        for name in ("user", "*"):
            assert live.http.delete(f"/v1/reward-sources/{name}").status_code == 204
        assert live.client.episode(episode).reward == 11.0
        again = live.http.delete("/v1/reward-sources/user")
        assert (again.status_code, again.json()["error"]["code"]) == (404, "reward_source_not_found")


@pytest.mark.parametrize("body", [{"weight": -1}, {"cap": -0.5}, {"weight": 1e9}, {"blocked": "yes"}, {"weigh": 1}, []])
def test_an_invalid_rule_is_refused_and_changes_nothing(live: Live, body: object) -> None:
    before = sources(live.client)
    refused = live.http.put("/v1/reward-sources/user", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_request")
    assert live.http.put(f"/v1/reward-sources/{'x' * 101}", json={}).status_code == 400
    assert sources(live.client) == before


def test_rewards_out_of_bounds_are_refused(live: Live) -> None:
    episode = rewarded(live)
    for value in ("1e7", "-1e7", "1e999", "NaN", "Infinity", "true"):
        answer = live.http.post(
            f"/v1/episodes/{episode}/rewards",
            content=f'{{"value": {value}}}',
            headers={"content-type": "application/json"},
        )
        assert answer.status_code == 400, value
    assert live.client.episode(episode).rewards == []


def test_the_same_reward_sent_many_times_at_once_counts_once(live: Live) -> None:
    episode = rewarded(live)
    path, body = f"/v1/episodes/{episode}/rewards", {"value": 0.5, "source": "user", "turn": 0, "key": "vote-7"}
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: live.http.post(path, json=body), range(32)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert live.client.episode(episode).reward == 0.5


def test_a_batch_keeps_its_rewards_and_the_next_run_uses_the_new_ones(live: Live) -> None:
    good, bad = reward_two(live)
    run_id = claim(live)
    batch = lease(live, run_id)
    assert {s.episode_id: s.reward for s in batch.samples} == {good: 1.0, bad: 0.0}
    live.client.reward(bad, RewardRequest(value=5.0, source="late"))
    assert lease(live, run_id).samples == batch.samples, "leased again before it is trained"
    live.client.acknowledge_batch(batch.id, BatchAck(learner=LEARNER, state="trained"))
    live.client.set_reward_source("user", RewardRule(weight=3.0))
    again = BatchRequest(run_id=run_id, learner=LEARNER, step=0, horizon=5, replay=True)
    assert live.client.lease_batch(again).samples == batch.samples
    live.client.set_reward_source("user", RewardRule(blocked=True))
    assert live.client.lease_batch(again).samples == batch.samples, "even if no reward counts"
    live.client.end_run(run_id, RunEnd(learner=LEARNER, state="done", reason="tested"))
    live.client.set_reward_source("user", RewardRule(blocked=False))
    assert {s.episode_id: s.reward for s in lease(live, claim(live)).samples} == {good: 3.0, bad: 5.0}


def test_a_batch_without_stored_rewards_uses_the_current_ones(live: Live) -> None:
    reward_two(live)
    run_id = claim(live)
    batch = lease(live, run_id)
    live.parts.writer.submit(lambda session: session.execute(sa.update(RunEpisodeRow).values(reward=None))).result()
    assert lease(live, run_id).samples == batch.samples


def test_rewards_of_a_blocked_source_reach_no_batch_and_no_trigger(live: Live) -> None:
    for value in (9.0, -9.0):
        rewarded(live, ("bot", value))
    kept = rewarded(live, ("bot", 9.0), ("user", 1.0))

    config = RunConfig(steps=1, algorithm="reinforce_pp", live=FEW_LIVE)

    def newly_scored() -> int:
        with live.parts.database.read() as session:
            return scored_since(session, config, None, time.time(), 100)

    assert newly_scored() == 3
    live.client.set_reward_source("bot", RewardRule(blocked=True))
    assert newly_scored() == 1
    made = live.client.create_run(RunRequest(config=config))
    live.client.claim_run(RunClaim(learner=LEARNER))
    assert {s.episode_id: s.reward for s in lease(live, made.id).samples} == {kept: 1.0}


def test_exports_filter_by_the_reward_that_counts(live: Live, tmp_path: Path) -> None:
    capped, plain = rewarded(live, ("bot", 9.0)), rewarded(live, ("user", 2.0))
    rewarded(live, ("user", 0.5))
    rewarded(live)
    live.client.set_reward_source("bot", RewardRule(cap=1.0))
    data = str(live.parts.settings.data_dir)

    def exported(*more: str) -> dict[str, float]:
        file = tmp_path / "out.jsonl"
        assert main(["export", str(file), "--data-dir", data, *more]) == 0
        return {line["id"]: line["reward"] for line in map(json.loads, file.read_text().splitlines())}

    assert exported("--min-reward", "1") == {capped: 1.0, plain: 2.0}
    assert exported("--min-reward", "1.5") == {plain: 2.0}
    assert exported("--min-reward", "1", "--limit", "1") == {capped: 1.0}
