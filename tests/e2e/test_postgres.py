"""The same code on PostgreSQL: a real server, started by the test from Debian's package."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

import migrations
from clients.wire import EpisodeOpen, PlayRequest, RunClaim, RunConfig, RunRequest
from env_adapters import family
from server.store.database import Database, normalise_url
from tests.e2e.test_loop_scripted import ASK, lease, publication, reward_two, says
from tests.live import script, serving, settings_for
from tests.postgres import running_postgres

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


def test_the_tables_in_the_code_are_those_of_the_revisions(url: str) -> None:
    database = Database(url)
    migrations.upgrade(database.writer)
    migrations.upgrade(database.writer)
    migrations.check(database.writer)
    database.close()


def test_the_whole_line_runs_on_postgresql(url: str, tmp_path: Path) -> None:
    model = script(tmp_path / "script", "Hello there.")
    tasks = family("textcraft").tasks("test")[:2]
    with serving(settings_for(tmp_path / "data", model=str(model), database_url=url)) as live:
        episodes = reward_two(live)
        run = live.client.create_run(RunRequest(config=RunConfig(steps=1)))
        assert live.client.claim_run(RunClaim(learner="tester")) is not None
        assert sorted(s.episode_id for s in lease(live, run.id).samples) == sorted(episodes)
        assert live.client.publish(publication(live, run.id, "Better now.")).version == 1
        assert says(live) == ("Better now.", "policy@1")
        play = live.client.start_play(PlayRequest(environment="textcraft", tasks=tasks, group_size=3, horizon=2,
                                                  purpose="evaluation"))
        done = live.client.wait_for_play(play.id)
        assert (done.finished, done.errors, done.success_rate) == (6, 0, 0.0)


def test_two_servers_on_one_database_share_the_record_and_admit_one_run(url: str, tmp_path: Path) -> None:
    model = script(tmp_path / "script", "Hello there.")
    one = settings_for(tmp_path / "one", model=str(model), database_url=url)
    two = settings_for(tmp_path / "two", model=str(model), database_url=url)
    with serving(one) as first, serving(two) as second:
        opened = first.client.open_episode(EpisodeOpen())
        first.openai(key=opened.key).chat.completions.create(model="policy", messages=ASK)
        assert len(second.client.episode(opened.id).turns) == 1
        for live in (first, second):
            live.client.create_run(RunRequest(config=RunConfig(steps=1)))
        assert first.client.claim_run(RunClaim(learner="a")) is not None
        assert second.client.claim_run(RunClaim(learner="b")) is None


def test_the_urls_that_hosters_give_mean_psycopg() -> None:
    for scheme in ("postgres", "postgresql"):
        assert normalise_url(f"{scheme}://u:p@h/d") == "postgresql+psycopg://u:p@h/d"
