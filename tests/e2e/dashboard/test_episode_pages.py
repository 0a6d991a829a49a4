"""Pages of episodes: every filter, what a page says of an episode, opinions, two side by side, and hostile texts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape, unescape
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import pytest

from env_adapters import environment_spec
from tests.support.live import Live, script, serving, settings_for, until
from tests.support.pages.looking import NARROW, Look, looking
from tests.support.runs.scripted import LEARNER, claim, lease, publication
from upturn.wire import (
    BatchAck,
    EpisodeOpen,
    PlayRequest,
    RewardRequest,
)

EVIL = """<img src=x onerror=alert(1)>"'><script>alert(2)</script>{{7*7}}"""
TASK = environment_spec("textcraft").tasks("train")[0]


@dataclass
class World:
    """A server with one episode of each kind."""

    live: Live
    hostile: str
    """Its every text is hostile."""
    crafted: str
    """TextCraft, won by the environment's solver."""
    walked: str | None
    """BabyAI, likewise; None without minigrid."""
    greedy: str
    """Its turn cannot be trained on."""
    forked: str
    """Its agent went back."""
    trained: str
    """A learner step trained on it."""
    run: str

    def get(self, place: str) -> str:
        """Return a page below `/ui/`."""
        answer = self.live.http.get(f"/ui/{place}")
        assert answer.status_code == 200, answer.text
        return answer.text

    def send(self, place: str, action: str, **fields: str) -> Any:
        """Send a form as the page at `place` would."""
        token = re.search(r'name="token" value="(\w+)"', self.get(place))
        assert token is not None
        headers = {"origin": self.live.url, "sec-fetch-site": "same-origin"}
        return self.live.http.post(f"/ui/{action}", data={"token": token[1], **fields}, headers=headers)


def talk(live: Live, episode: Any, messages: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    answer = live.openai(key=episode.key).chat.completions.create(model="policy", messages=messages, **more)
    return {"role": "assistant", "content": answer.choices[0].message.content}


def played(live: Live, environment: str, task: str, agent: Literal["oracle", "policy"] = "oracle") -> str:
    play = live.client.start_play(PlayRequest(environment=environment, tasks=[task], horizon=30, agent=agent))
    (episode,) = live.client.wait_for_play(play.id).results
    return episode.episode_id


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home: Path = tmp_path_factory.mktemp("episodes")
    model = script(home / "script", EVIL)
    with serving(settings_for(home / "data", model=str(model))) as live:
        ask = [{"role": "user", "content": EVIL}]
        hostile = live.client.open_episode(EpisodeOpen(group=EVIL, metadata={EVIL: EVIL}))
        talk(live, hostile, ask)
        live.client.reward(hostile.id, RewardRequest(value=1.0, source=EVIL, turn=0))
        live.client.close_episode(hostile.id, EVIL)
        greedy = live.client.open_episode(EpisodeOpen())
        talk(live, greedy, [{"role": "user", "content": "A plain question"}], temperature=0)
        live.client.close_episode(greedy.id)
        forked = live.client.open_episode(EpisodeOpen())
        first = talk(live, forked, ask)
        for further in ("One way.", "Another way."):
            talk(live, forked, [*ask, first, {"role": "user", "content": further}])
        trained = [live.client.open_episode(EpisodeOpen(group="of two")) for _ in range(2)]
        for episode, value in zip(trained, (1.0, 0.0), strict=True):
            talk(live, episode, ask)
            live.client.reward(episode.id, RewardRequest(value=value))
            live.client.close_episode(episode.id)
        run = claim(live, steps=1)
        batch = lease(live, run)
        version = live.client.publish(publication(live, run, "Better.")).version
        learned = {trained[0].id: (0.75, 28.0), trained[1].id: (-0.75, 28.0)}
        live.client.acknowledge_batch(batch.id, acknowledged(version, learned))
        babyai = environment_spec("babyai")
        walked = None if babyai.missing() else played(live, "babyai", babyai.tasks("train")[0])
        crafted = played(live, "textcraft", TASK)
        made = World(live, hostile.id, crafted, walked, greedy.id, forked.id, trained[0].id, run)
        until(lambda: crafted in made.get("episodes?environment=textcraft"), "the episodes were not indexed")
        yield made


def acknowledged(version: int, learned: dict[str, tuple[float, float]]) -> BatchAck:
    episodes = [{"episode_id": one, "advantage": a, "weight": w} for one, (a, w) in learned.items()]
    return BatchAck.model_validate(
        {"learner": LEARNER, "state": "trained", "policy_version": version, "metrics": {}, "episodes": episodes}
    )


def test_each_filter_finds_its_episodes_and_no_others(world: World) -> None:
    for query, found in {
        "environment=textcraft": {world.crafted},
        f"environment=textcraft&task={quote(TASK)}": {world.crafted},
        "success=true&environment=textcraft": {world.crafted},
        "success=false&environment=textcraft": set(),
        "live=false&environment=textcraft": {world.crafted},
        "live=true&text=plain+question": {world.greedy},
        "untrainable=greedy": {world.greedy},
        f"group={quote(EVIL)}": {world.hostile},
        f"text=img+src&reward_from=0.5&status=closed&group={quote(EVIL)}": {world.hostile},
        f"run={world.run}&step=0&reward_from=0.5": {world.trained},
        "opened_before=1": set(),
        "age=hour&environment=textcraft": {world.crafted},
    }.items():
        listed = set(
            re.findall(r'<tr>\s*<td class="nowrap"><a href="[^"]*episodes/(ep_\w+)"', world.get(f"episodes?{query}"))
        )
        assert listed == found, query


def test_a_list_says_which_filters_are_on_and_an_empty_one_what_to_do(world: World) -> None:
    page = world.get("episodes?success=true&age=day&text=nothing+has+this")
    assert "No episode fits" in page and "the last day" in page
    assert 'href="./episodes?success=true&amp;age=day"' in page, "each filter can be taken off alone"


def test_a_filter_that_the_route_refuses_is_said_beside_the_form(world: World) -> None:
    answer = world.live.http.get("/ui/episodes?reward_from=much")
    assert answer.status_code == 400 and 'role="alert"' in answer.text and 'value="much"' in answer.text


def test_pages_of_a_list_follow_each_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.dashboard.pages.episodes.PER_PAGE", 2)
    seen, place = list[str](), "episodes"
    while place:
        page = world.get(place)
        seen += re.findall(r'<td class="nowrap"><a href="[^"]*episodes/(ep_\w+)"', page)
        older = re.search(r'rel="next" href="./(episodes\?[^"]+)"', page)
        place = unescape(older[1]) if older else ""
    assert len(seen) == len(set(seen)) == len(world.live.client.episodes(limit=100).data)


def test_an_episode_says_why_it_is_not_trained_on_and_what_trained_on_it(world: World) -> None:
    page = world.get(f"episodes/{world.greedy}")
    assert "Not trained on (greedy)." in page and "Sample at a temperature above 0." in page
    trained = world.get(f"episodes/{world.trained}")
    assert f"episodes?run={world.run}&amp;step=0" in trained and "+0.75" in trained
    crafted = world.get(f"episodes/{world.crafted}")
    assert "The environment ended it." in crafted and "demonstration" in crafted
    assert world.live.http.get("/ui/episodes/ep_none").status_code == 404


def test_reasons_lead_to_their_episodes(world: World) -> None:
    page = world.get("untrainable")
    link = re.search(r'href="./(episodes\?untrainable=greedy&amp;opened_from=[\d.]+)"', page)
    assert link is not None and "temperature 0" in page
    assert world.greedy in world.get(unescape(link[1]))


def test_tokens_show_what_is_known_of_each(world: World) -> None:
    page = world.get(f"episodes/{world.trained}?tokens=1&color=advantage")
    assert len(re.findall(r'class="tk trained ad2"', page)) >= len(EVIL)
    assert "advantage +0.750" in page and "may be trained" in page
    assert 'class="tk masked' in world.get(f"episodes/{world.greedy}?tokens=1").split("</section>", 1)[1]
    assert world.live.http.get(f"/ui/episodes/{world.greedy}?tokens=1&color=taste").status_code == 400


def test_branches_are_drawn_and_chains_are_not(world: World) -> None:
    assert "turn-tree" in world.get(f"episodes/{world.forked}") and "branches off from turn 0" in world.get(
        f"episodes/{world.forked}"
    )
    assert "turn-tree" not in world.get(f"episodes/{world.crafted}")


def test_states_are_drawn_beside_the_turns(world: World) -> None:
    crafted = world.get(f"episodes/{world.crafted}")
    assert "Carries nothing." in crafted and 'class="items"' in crafted
    if world.walked is not None:
        assert 'class="grid-drawing"' in world.get(f"episodes/{world.walked}")


def test_opinions_are_recorded_once_and_shown(world: World) -> None:
    place = f"episodes/{world.forked}"
    for _ in range(2):
        assert world.send(place, f"{place}/feedback", thumb="up", turn="1", once="same").status_code == 303
    world.send(place, f"{place}/feedback", comment=EVIL)
    view = world.live.client.episode(world.forked)
    assert [(one.value, one.turn) for one in view.rewards] == [(1.0, 1)]
    assert [(one.thumb, one.comment, one.turn) for one in view.feedback] == [("up", None, 1), (None, EVIL, None)]
    assert escape(EVIL, quote=False)[:20] in world.get(place)
    assert world.send(place, f"{place}/feedback").status_code == 400, "an empty form says nothing"


def test_opinions_from_another_site_or_without_the_token_are_refused(world: World) -> None:
    place = f"/ui/episodes/{world.greedy}/feedback"
    for headers in (
        {},
        {"origin": "https://evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"origin": world.live.url},
    ):
        assert world.live.http.post(place, data={"thumb": "up"}, headers=headers).status_code == 403, headers
    assert world.live.client.episode(world.greedy).rewards == []


def test_an_episode_is_a_file_and_can_be_erased(world: World) -> None:
    answer = world.live.http.get(f"/ui/episodes/{world.crafted}/json")
    assert answer.json()["id"] == world.crafted and "attachment" in answer.headers["content-disposition"]
    doomed = world.live.client.open_episode(EpisodeOpen())
    world.live.client.close_episode(doomed.id)
    assert world.send(f"episodes/{doomed.id}", f"episodes/{doomed.id}/erase").status_code == 303
    assert world.live.http.get(f"/ui/episodes/{doomed.id}").status_code == 404


def test_the_episodes_of_a_learner_step_lead_to_those_of_the_next(world: World) -> None:
    page = world.get(f"episodes?run={world.run}&step=0")
    assert f'href="./episodes?run={world.run}&amp;step=1"' in page and "step=-1" not in page


def test_two_episodes_stand_side_by_side_with_their_first_difference(world: World) -> None:
    page = world.get(f"compare?left={world.hostile}&right={world.greedy}")
    assert "All answers are the same." in page
    page = world.get(f"compare?left={world.hostile}&right={world.forked}")
    assert "The first different answer is number 2." in page and "It had ended before." in page
    assert world.live.http.get(f"/ui/compare?left={world.hostile}&right=ep_none").status_code == 404
    assert world.live.http.get("/ui/compare?left=../keys&right=ep_1").status_code == 400


def test_two_versions_stand_side_by_side_on_a_task_that_both_have_played(live: Live) -> None:
    episodes = [played(live, "textcraft", TASK, agent="policy")]
    live.client.publish(publication(live, claim(live, steps=1), "Better."))
    episodes.append(played(live, "textcraft", TASK, agent="policy"))
    page = live.http.get("/ui/compare?left_version=0&right_version=1").text
    assert all(one in page for one in episodes) and "The first different answer is number 1." in page
    assert "have no recent task in common" in live.http.get("/ui/compare?left_version=0&right_version=9").text


def test_long_episodes_come_in_pages(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.dashboard.pages.episode.PER_PAGE", 1)
    page = world.get(f"episodes/{world.crafted}?first=1")
    assert 'id="turn-1"' in page and 'id="turn-0"' not in page and f"episodes/{world.crafted}?first=0" in page


def test_a_person_plays_a_task_to_its_end_in_the_browser_and_leaves_a_demonstration(world: World) -> None:
    solver = environment_spec("textcraft").make()
    solver.reset(TASK, 0)
    with looking(world.live.url) as look:
        page = look.at("by-hand?environment=textcraft")
        page.fill('input[name="task"]', TASK)
        page.click("text=Begin")
        for _ in range(40):
            if page.locator("text=you succeeded").count():
                break
            answer = solver.oracle()
            solver.step(answer)
            with page.expect_navigation():
                page.fill("textarea", answer)
                page.keyboard.press("Enter")
        assert page.locator("text=you succeeded").count() == 1
        episode = re.search(r"ep_\w+", page.url)
    assert episode is not None
    view = world.live.client.episode(episode[0])
    assert (view.status, view.success, len(view.turns)) == ("terminated", True, len(view.steps))
    assert view.metadata == {"played_by": "a person"}


def every_place(world: World) -> list[str]:
    known = [world.hostile, world.crafted, world.greedy, world.forked, world.trained, *filter(None, [world.walked])]
    return [
        "episodes",
        f"episodes?text={quote(EVIL)}&metadata={quote('a=' + EVIL)}&task={quote(EVIL)}",
        f"episodes?key={quote(EVIL)}&group={quote(EVIL)}&run=run_1&step=2",
        "episodes?version=0&live=true",
        "untrainable",
        "by-hand",
        "by-hand?environment=textcraft",
        "compare",
        f"compare?left={world.hostile}&right={world.forked}",
        f"compare?left={world.hostile}",
        *(f"episodes/{one}" for one in known),
        *(f"episodes/{one}?tokens=1&color=version" for one in known),
        *(f"by-hand/{one}" for one in (world.crafted, *filter(None, [world.walked]))),
    ]


def test_no_text_of_users_models_or_tools_becomes_markup(world: World) -> None:
    for place in every_place(world):
        page = world.get(place)
        assert "<img" not in page and "<script>" not in page and 'onerror=alert(1)>"' not in page, place


@pytest.mark.parametrize(
    ("width", "dark", "scripts"), [(1280, False, True), (NARROW, True, True), (NARROW, False, False)]
)
def test_every_page_works_in_a_browser_and_fits_its_window(world: World, width: int, dark: bool, scripts: bool) -> None:
    with looking(world.live.url, width=width, dark=dark, scripts=scripts) as look:
        for place in every_place(world):
            page = look.at(place)
            assert page.locator("main h1").count() == 1, place
            assert look.overflows() <= 0, place


def test_keys_walk_the_turns_and_the_pointer_reads_tokens(world: World) -> None:
    with looking(world.live.url) as look:
        page = look.at(f"episodes/{world.crafted}")
        walked = [_focused(look, key) for key in ("j", "j", "k", "k", "k")]
        assert walked == ["turn-0", "turn-1", "turn-0", "turn-0", "turn-0"]
        page = look.at(f"episodes/{world.trained}?tokens=1")
        page.hover(".tk.trained >> nth=0")
        assert "probability" in page.inner_text("[data-readout]")


def _focused(look: Look, key: str) -> str:
    look.page.keyboard.press(key)
    return str(look.page.evaluate("document.activeElement.id"))
