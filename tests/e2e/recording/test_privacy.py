"""Privacy: opting out of training, erasing episodes, and tracing where they were trained."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from pathlib import Path

import openai
import pytest

from env_adapters import environment_spec
from server.recording.retention import Retention
from tests.support.live import Live, script, serving, settings_for
from tests.support.runs.scripted import LEARNER, claim, lease, publication, reward_two
from upturn.client import Client, UpturnAPIError
from upturn.wire import BatchAck, EpisodeOpen, KeyTraining, PlayRequest, RewardRequest, TrainedEpisode

ASK = [{"role": "user", "content": "Hi"}]


def client(live: Live, key: str) -> Client:
    return live.closing.enter_context(Client(live.url, key=key, retry_s=0))


def rows(live: Live, query: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(live.parts.settings.data_dir / "upturn.db") as connection:
        result = connection.execute(query).fetchall()
    connection.close()
    return result


def gone(live: Live, episode_id: str) -> bool:
    try:
        live.client.episode(episode_id)
    except UpturnAPIError as error:
        assert error.code == "episode_not_found"
        return True
    return False


@pytest.mark.parametrize("value", ["1", "true", "Yes"])
def test_episodes_of_a_caller_that_forbids_training_are_never_trained_on(live: Live, value: str) -> None:
    headers = {"x-no-train": value}
    opened = live.http.post("/v1/episodes", json={"group": "g"}, headers=headers).json()
    live.openai(key=opened["key"]).chat.completions.create(model="policy", messages=ASK)
    chatted = (
        live.openai(default_headers=headers)
        .chat.completions.with_raw_response.create(model="policy", messages=ASK)
        .headers["x-episode-id"]
    )
    first, second = reward_two(live)
    later = live.client.open_episode(EpisodeOpen(group="g"))
    api = live.openai(key=later.key)
    api.chat.completions.create(model="policy", messages=ASK)
    assert live.client.episode(later.id).trainable
    api.chat.completions.create(model="policy", messages=ASK, extra_headers=headers)
    for episode_id in (opened["id"], chatted, later.id):
        assert not live.client.episode(episode_id).trainable
        live.client.reward(episode_id, RewardRequest(value=0.5))
        live.client.close_episode(episode_id)
    assert {s.episode_id for s in lease(live, claim(live)).samples} == {first, second}


@pytest.mark.parametrize("value", ["0", "false", "", "no"])
def test_episodes_of_a_caller_that_does_not_forbid_training_are_trainable(live: Live, value: str) -> None:
    opened = live.http.post("/v1/episodes", json={}, headers={"x-no-train": value}).json()
    assert live.client.episode(opened["id"]).trainable


def test_an_episode_names_its_learner_steps_and_its_batch_counts_it_after_erasure(live: Live) -> None:
    one, two = reward_two(live)
    assert live.client.trained(one).data == []
    run_id = claim(live)
    batch = lease(live, run_id)
    (at_the_learner,) = live.client.trained(one).data
    assert (at_the_learner.run_id, at_the_learner.step, at_the_learner.policy_version) == (run_id, 0, None)
    live.client.publish(publication(live, run_id, "Better now."))
    live.client.acknowledge_batch(
        batch.id,
        BatchAck(
            learner=LEARNER,
            state="trained",
            policy_version=1,
            metrics={},
            episodes=[
                TrainedEpisode(episode_id=one, advantage=0.7, weight=13.0),
                TrainedEpisode(episode_id=two, advantage=-0.7, weight=13.0),
            ],
        ),
    )
    (trained,) = live.client.trained(one).data
    assert (trained.policy_version, trained.advantage, trained.weight) == (1, 0.7, 13.0)
    mine = live.client.trained_on_key()
    assert mine.episodes == 2
    assert mine.data == [KeyTraining(run_id=run_id, step=0, policy_version=1, episodes=2)]
    live.client.erase_episode(one)
    assert live.client.trained_on_key().data == [KeyTraining(run_id=run_id, step=0, policy_version=1, episodes=1)]
    live.client.erase_episode(two)
    for ask in (live.client.trained, live.client.episode, live.client.erase_episode):
        with pytest.raises(UpturnAPIError, match="404 episode_not_found"):
            ask(one)
    assert rows(live, "select erased_episodes from batch") == [(2,)]
    for table in ("episode", "turn", "node", "step", "reward", "run_episode"):
        assert rows(live, f"select count(*) from {table}") == [(0,)]
    assert live.client.run(run_id).steps[0].policy_version == 1


def test_erasing_a_keys_episodes_erases_all_of_them_and_no_others(live: Live) -> None:
    mine, other = client(live, "mine"), client(live, "other")
    task = environment_spec("textcraft").tasks("train")[0]
    kept = other.open_episode(EpisodeOpen())
    playing = mine.open_episode(EpisodeOpen(environment="textcraft", task=task))
    erased = [mine.open_episode(EpisodeOpen()).id for _ in range(45)]
    mine.close_episode(erased[0])
    talk = live.openai(key="mine").chat.completions.with_raw_response.create(model="policy", messages=ASK)
    play = live.client.start_play(PlayRequest(environment="textcraft", tasks=[task], horizon=1))
    live.client.wait_for_play(play.id)
    assert mine.erase_episodes_of_key().episodes == 47
    for episode_id in (*erased, playing.id, talk.headers["x-episode-id"]):
        assert gone(live, episode_id)
    assert not gone(live, kept.id)
    assert rows(live, "select count(*) from episode") == [(2,)]
    with pytest.raises(UpturnAPIError, match="404 episode_not_found"):
        mine.step(playing.id, "inventory")
    assert mine.erase_episodes_of_key().episodes == 0
    again = live.openai(key="mine").chat.completions.with_raw_response.create(model="policy", messages=ASK)
    assert not gone(live, again.headers["x-episode-id"])


def test_a_turn_in_progress_is_not_recorded_after_its_episode_is_erased(tmp_path: Path) -> None:
    model = script(tmp_path / "script", "word " * 100, delay_s=0.02)
    with serving(settings_for(tmp_path / "data", model=str(model))) as live:
        opened = live.client.open_episode(EpisodeOpen())
        outcomes: list[object] = []

        def talk() -> None:
            try:
                outcomes.append(live.openai(key=opened.key).chat.completions.create(model="policy", messages=ASK))
            except openai.APIStatusError as error:
                outcomes.append((error.status_code, error.code))

        talking = threading.Thread(target=talk)
        talking.start()
        deadline = time.monotonic() + 60
        while not (episode := live.parts.episodes._open.get(opened.id)) or not episode.answering:
            assert time.monotonic() < deadline, "the turn did not begin"
            time.sleep(0.01)
        live.client.erase_episode(opened.id)
        talking.join(timeout=120)
        assert outcomes == [(409, "episode_ended")]
        for table in ("episode", "turn", "node"):
            assert rows(live, f"select count(*) from {table}") == [(0,)]


def test_retention_erases_expired_episodes_and_never_an_open_one(live: Live) -> None:
    ended = [live.client.open_episode(EpisodeOpen()).id for _ in range(45)]
    still_open = live.client.open_episode(EpisodeOpen()).id
    for episode_id in ended:
        live.client.close_episode(episode_id)

    def prune(after_days: float) -> int:
        job = Retention(live.parts.privacy, 1.0, clock=lambda: time.time() + after_days * 86_400)
        return asyncio.run_coroutine_threadsafe(job.prune(), live.loop).result(timeout=120)

    assert prune(after_days=0.9) == 0
    assert prune(after_days=1.1) == 45
    assert prune(after_days=1000) == 0
    assert rows(live, "select id from episode") == [(still_open,)]


def test_a_starting_server_erases_expired_episodes(tmp_path: Path) -> None:
    model = script(tmp_path / "script", "Hello there.")
    with serving(settings_for(tmp_path / "data", model=str(model))) as live:
        old, still_open = (live.client.open_episode(EpisodeOpen()).id for _ in range(2))
        live.client.close_episode(old)
    with serving(settings_for(tmp_path / "data", model=str(model), retention_days=1e-9)) as live:
        deadline = time.monotonic() + 120
        while not gone(live, old):
            assert time.monotonic() < deadline, "the job did not run at the start"
            time.sleep(0.05)
        assert not gone(live, still_open)
