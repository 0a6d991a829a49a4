"""The same code on PostgreSQL: a real server from Debian's package, started by the tests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import migrations
from env_adapters import environment_spec
from server.rewards.settings import FunctionSettings, RewardSettings
from server.store.database import Database, normalize_url
from server.store.tables import PlayRow
from tests.support.live import script, serving, settings_for, until
from tests.support.postgres import running_postgres
from tests.support.runs.planned import begin, rewarded
from tests.support.runs.planned import lease as batch_of
from tests.support.runs.scripted import ASK, FEW_LIVE, LEARNER, claim, lease, publication, reward_two, says
from upturn.wire import (
    BatchAck,
    EpisodeOpen,
    FeedbackRequest,
    PlayRequest,
    RewardRequest,
    RewardRule,
    RunClaim,
    RunConfig,
    RunRequest,
)

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """URL of a fresh PostgreSQL."""
    with running_postgres() as server:
        yield server.url


@pytest.fixture
def url(postgres: str) -> Iterator[str]:
    """URL of an empty database."""
    yield postgres
    database = Database(postgres)
    with database.writer.begin() as connection:
        connection.execute(sa.text("drop schema public cascade"))
        connection.execute(sa.text("create schema public"))
    database.close()


def test_the_tables_in_the_code_match_the_revisions(url: str) -> None:
    database = Database(url)
    migrations.upgrade(database.writer)
    migrations.upgrade(database.writer)
    migrations.check(database.writer, PlayRow.metadata)
    database.close()


def test_episodes_are_listed_and_conversations_found_on_postgresql(url: str, tmp_path: Path) -> None:
    model = script(tmp_path / "script", "Hello there.", "Again.")
    with serving(settings_for(tmp_path / "data", model=str(model), database_url=url)) as live:
        marked = live.client.open_episode(EpisodeOpen(metadata={"user": "ann", "try": 2, "live": True})).id
        said = live.openai().chat.completions.with_raw_response.create(model="policy", messages=ASK)
        answer = {"role": "assistant", "content": said.parse().choices[0].message.content}
        talk = [{"role": "system", "content": "It is noon."}, *ASK, answer, *ASK]
        on = live.openai().chat.completions.with_raw_response.create(model="policy", messages=talk)
        assert on.headers["x-episode-id"] == said.headers["x-episode-id"]
        for pair in ("user=ann", "try=2", "live=true"):
            assert [episode.id for episode in live.client.episodes(metadata=[pair]).data] == [marked]
        found = live.client.episodes(text="hello THERE", status=["open"]).data
        assert [(episode.id, episode.turns) for episode in found] == [(on.headers["x-episode-id"], 2)]
        given = live.client.reward(on.parse().id, RewardRequest(value=1.0))
        assert given.episode_id == on.headers["x-episode-id"]


def test_the_index_follows_a_record_on_postgresql(url: str, tmp_path: Path) -> None:
    model = script(tmp_path / "script", "Hello there.")
    with serving(settings_for(tmp_path / "data", model=str(model), database_url=url)) as live:
        good, bad = reward_two(live)
        said = live.client.feedback(good, FeedbackRequest(thumb="up", answer="Good day.", turn=0))
        shown = said.demonstration_id
        assert shown is not None and live.client.episode(shown).shows == good
        asyncio.run_coroutine_threadsafe(live.parts.index.fresh(), live.loop).result(timeout=60)

        def found(**filters: Any) -> set[str]:
            return {episode.id for episode in live.client.episodes(**filters).data}

        assert found(reward_from=1.5) == {good} and found(reward_to=0) == {bad}
        assert found(text="there hello") == set() and found(text="good day") == {shown}
        assert found(version=0, live=True, text="hello there") == {good, bad}
        figures = live.client.stats()
        assert (sum(figures.episodes), sum(figures.turns), figures.missing) == (3, 3, 0)
        assert live.client.status().problems == []
        run_id = claim(live, steps=1)
        batch = lease(live, run_id)
        live.client.acknowledge_batch(batch.id, BatchAck(learner=LEARNER, state="trained", metrics={"loss": 0.5}))
        (step,) = live.client.steps(run_id).data
        assert (step.loss, step.trained_episodes, step.fork_share) == (0.5, 2, 0.0)
        assert found(run=run_id, step=0) == {good, bad} and found(run=run_id, text="hello", reward_to=0) == {bad}
        live.client.erase_episode(good)
        assert found() == {bad}, "the demonstration is erased with the episode"
        asyncio.run_coroutine_threadsafe(live.parts.index.fresh(), live.loop).result(timeout=60)
        assert b"Good day" not in b"".join(file.read_bytes() for file in (tmp_path / "data").glob("index.db*"))


def test_a_chat_trains_the_next_version_which_then_answers_on_postgresql(url: str, tmp_path: Path) -> None:
    model = script(tmp_path / "script", "Hello there.")
    tasks = environment_spec("textcraft").tasks("test")[:2]
    with serving(settings_for(tmp_path / "data", model=str(model), database_url=url)) as live:
        episodes = reward_two(live)
        run = live.client.create_run(RunRequest(config=RunConfig(steps=1, live=FEW_LIVE)))
        assert live.client.claim_run(RunClaim(learner="tester")) is not None
        assert sorted(s.episode_id for s in lease(live, run.id).samples) == sorted(episodes)
        assert live.client.publish(publication(live, run.id, "Better now.")).version == 1
        assert says(live) == ("Better now.", "policy@1")
        play = live.client.start_play(
            PlayRequest(environment="textcraft", tasks=tasks, group_size=3, horizon=2, purpose="evaluation")
        )
        done = live.client.wait_for_play(play.id)
        assert (done.finished, done.errors, done.success_rate) == (6, 0, 0.0)


def test_a_reward_sent_many_times_at_once_counts_once_and_the_rules_apply(url: str, tmp_path: Path) -> None:
    model = script(tmp_path / "script", "Hello there.")
    scorers = RewardSettings(
        functions={"length": FunctionSettings(function="tests.support.rewards.reward_functions:length")}
    )
    settings = settings_for(tmp_path / "data", model=str(model), database_url=url, rewards=scorers)
    with serving(settings) as live, ThreadPoolExecutor(16) as pool:
        opened = live.client.open_episode(EpisodeOpen())
        live.openai(key=opened.key).chat.completions.create(model="policy", messages=ASK)
        for round_ in range(8):
            body = {"value": 0.5, "key": f"vote-{round_}"}
            answers = list(
                pool.map(
                    lambda body: live.http.post(f"/v1/episodes/{opened.id}/rewards", json=body),
                    [body] * 16,
                )
            )
            assert {answer.status_code for answer in answers} == {201}
            assert len({answer.json()["id"] for answer in answers}) == 1
        live.client.set_reward_source("user", RewardRule(cap=1.0))
        assert live.client.episode(opened.id).reward == 1.0
        live.client.close_episode(opened.id)
        until(lambda: len(live.client.episode(opened.id).rewards) == 9)
        assert live.client.episode(opened.id).reward == 2.0
        assert [view.scored for view in live.client.scorers().data] == [1]
        assert {s.name: (s.count, s.mean) for s in live.client.reward_sources().data} == {
            "*": (0, None),
            "user": (8, 0.5),
            "length": (1, 1.0),
        }


def test_common_url_schemes_select_psycopg() -> None:
    for scheme in ("postgres", "postgresql"):
        assert normalize_url(f"{scheme}://u:p@h/d") == "postgresql+psycopg://u:p@h/d"


def test_a_batch_contains_what_its_run_declares_on_postgresql(url: str, tmp_path: Path) -> None:
    model = script(tmp_path / "script", "Hello there.")
    with serving(settings_for(tmp_path / "data", model=str(model), database_url=url)) as live:
        rewarded(live, "elsewhere")
        user = rewarded(live, "user")
        plan = {"environment": "textcraft", "split": "test", "curriculum": "learnability", "groups": 2}
        run_id = begin(
            live,
            play={**plan, "group_size": 2},
            live={"sources": ["user"], "min_rewards": 1, "keys": [], "max_age_s": 600.0},
        )
        for step, taken in enumerate((1, 0)):
            batch = batch_of(live, run_id, step)
            assert (batch.played_episodes, batch.live_episodes, batch.by_environment) == (4, taken, {"textcraft": 4})
            assert (user in {s.episode_id for s in batch.samples}) == bool(taken)
            live.client.acknowledge_batch(batch.id, BatchAck(learner=LEARNER, state="trained"))
