"""The questions that people come with are answered within three clicks from Home, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from server.training.scheduling.settings import ScheduleSettings
from tests.support.keys import client, new_key
from tests.support.live import Live, script, serving, settings_for
from tests.support.pages.looking import Look, looking
from tests.support.runs.gated import served, trained
from tests.support.runs.scripted import ASK, LEARNER, claim, lease, publication, reward_two
from upturn.wire import BatchAck, CronTrigger, EpisodeOpen, RewardRequest, RunConfig, RunEnd

CLICKS = 3
TONIGHT = CronTrigger(kind="cron", cron="0 1 * * *", timezone="Europe/Berlin")


@dataclass
class Walk:
    """A person who begins at Home and counts clicks."""

    look: Look
    clicks: list[str] = field(default_factory=list)

    def click(self, selector: str) -> None:
        """Click the first element that a selector finds, and wait for the page that it leads to."""
        self.clicks.append(selector)
        assert len(self.clicks) <= CLICKS, self.clicks
        self.look.page.locator(selector).first.click()
        self.look.page.wait_for_load_state("load")

    def reads(self, text: str) -> None:
        """Check that the page says something."""
        self.look.page.locator(f"main >> text={text}").first.wait_for(timeout=10_000)


@dataclass
class World:
    """A server that has rejected a version, and has learned."""

    live: Live
    rejected: int
    objection: str
    run: str
    """Its only step trained on `episodes`."""
    episodes: list[str]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    schedule = ScheduleSettings(triggers={"tonight": TONIGHT}, run=RunConfig(steps=1))
    with served(tmp_path_factory.mktemp("clicks"), base="win", schedule=schedule) as live:
        worse = trained(live, "add 1")
        assert worse.gate == "rejected" and worse.last_version is not None
        episodes = reward_two(live)
        run = claim(live, steps=1)
        batch = lease(live, run)
        version = live.client.publish(publication(live, run, "win")).version
        metrics = {"loss": 0.1, "entropy": 0.5}
        live.client.acknowledge_batch(
            batch.id, BatchAck(learner=LEARNER, state="trained", policy_version=version, metrics=metrics)
        )
        live.client.end_run(run, RunEnd(learner=LEARNER, state="done", reason="tested"))
        live.openai(key="greedy").chat.completions.create(model="policy", messages=ASK, temperature=0)
        yield World(live, worse.last_version, live.client.promotions().data[-1].reason, run, episodes)


@pytest.fixture
def walk(world: World) -> Iterator[Walk]:
    with looking(world.live.url) as look:
        look.at("")
        yield Walk(look)


def test_why_was_a_version_rejected(world: World, walk: Walk) -> None:
    walk.click(f"a.version >> text=@{world.rejected}")
    walk.reads("success changed by")


def test_who_was_served_by_a_version(world: World, walk: Walk) -> None:
    walk.click("nav >> text=Versions")
    walk.click("main a.version >> text=@0")
    walk.click('a[href*="live=true"]')
    walk.reads("Who was served by version 0")
    assert walk.look.page.locator(f'a[href*="{world.episodes[0]}"]').count() == 1


def test_what_is_untrainable_and_why(walk: Walk) -> None:
    walk.click("nav >> text=Episodes")
    walk.click("text=What is not trainable")
    walk.reads("It was sampled at temperature 0")
    walk.click("tr:has-text('greedy') >> text=Episodes")
    assert walk.look.page.locator("table.episodes tbody tr").count() == 1


def test_which_episodes_caused_a_drop_in_a_curve(world: World, walk: Walk) -> None:
    walk.click("nav >> text=Learning")
    walk.click(".u-over")
    walk.click("text=Episodes behind it")
    walk.reads(f"Episodes that trained step 0 of {world.run}")
    for episode in world.episodes:
        assert walk.look.page.locator(f'a[href*="{episode}"]').count() == 1


def test_which_episodes_a_run_learned_from_and_what_each_taught_it(world: World, walk: Walk) -> None:
    walk.click(f'main a[href*="runs/{world.run}"]')
    walk.click(f'a[href*="run={world.run}"][href*="step=0"]')
    walk.click(f'a[href*="{world.episodes[1]}"]')
    assert walk.look.page.locator(f'#training a[href*="{world.run}"]').count() > 0


def test_is_tonights_run_going_to_happen(walk: Walk) -> None:
    walk.reads("tonight")
    walk.click("nav >> text=Schedule")
    walk.reads("Will the next run happen?")
    walk.reads("tonight")


def test_an_admin_reads_which_keys_a_version_served_and_an_agent_does_not(tmp_path: Path) -> None:
    model = script(tmp_path / "script", "Hello.")
    with serving(settings_for(tmp_path / "data", model=str(model), keys="required")) as live:
        busy, idle, admin = new_key(live, "agent", "reward"), new_key(live, "agent"), new_key(live, "admin")
        opened = client(live, busy.key).open_episode(EpisodeOpen())
        live.openai(key=opened.key).chat.completions.create(model="policy", messages=ASK)
        client(live, busy.key).reward(opened.id, RewardRequest(value=1.0))

        def page(key: str) -> str:
            cookie = f"upturn_key_{live.url.rpartition(':')[2]}={key}"
            return live.http.get("/ui/episodes?version=0&live=true", headers={"cookie": cookie}).text

        assert "Served to 1 key" in page(admin.key) and busy.name in page(admin.key)
        assert opened.id in page(busy.key) and "Served to" not in page(busy.key)
        assert opened.id not in page(idle.key) and "No episode fits" in page(idle.key)
