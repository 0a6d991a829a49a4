"""The dashboard in a real browser: nothing breaks the pages' policy, nothing overflows, and what is live is live."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from server.environments.settings import EnvironmentSettings
from tests.e2e.dashboard.conftest import Decided
from tests.support.keys import new_key
from tests.support.live import script, serving, settings_for
from tests.support.pages.looking import NARROW, WIDE, looking
from tests.support.runs.gated import ENVIRONMENT
from upturn.wire import EpisodeOpen

PLACES = ("", "learning", "versions", "versions/1", "versions/2", "runs", "runs/new", "schedule", "login", "nowhere")


@pytest.mark.parametrize(("width", "dark"), [(WIDE, False), (WIDE, True), (NARROW, False)])
def test_no_page_breaks_its_policy_or_is_wider_than_its_window(decided: Decided, width: int, dark: bool) -> None:
    rejected = next(row for row in decided.live.client.promotions().data if row.action == "reject")
    places = [*PLACES, f"decisions/{rejected.id}", f"runs/{decided.promoted.id}", "runs?campaign=nightly"]
    with looking(decided.live.url, width=width, dark=dark) as look:
        for place in places:
            page = look.at(place)
            assert page.locator("main h1").count() == 1, place
            assert look.overflows() == 0, place
            size = page.evaluate("document.querySelectorAll('style, [style]:not(.uplot *, .uplot)').length")
            assert size == 0, place
        look.wrong[:] = [text for text in look.wrong if "404" not in text]  # The page that does not exist.


def test_pages_can_be_used_by_keyboard_and_show_times_in_the_viewers_zone(decided: Decided) -> None:
    with looking(decided.live.url) as look:
        page = look.at("versions")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        assert page.locator("[data-zone]").inner_text() == "Europe/Berlin"
        assert "UTC" not in "".join(page.locator("main time").all_inner_texts())
        assert page.locator("nav [aria-current]").inner_text() == "Versions"


def test_without_scripts_the_pages_still_say_everything(decided: Decided) -> None:
    with looking(decided.live.url, scripts=False) as look:
        page = look.at("runs/new")
        page.get_by_label("Learner steps").fill("7")
        page.get_by_role("button", name="Write the TOML").click()
        assert "steps = 7" in page.locator("#toml").input_value()
        assert "UTC" in look.at("versions").locator("main time").first.inner_text()


def test_home_changes_while_it_is_open(decided: Decided) -> None:
    with looking(decided.live.url) as look:
        page = look.at("")
        opened = page.locator("dt:has-text('open episodes') + dd")
        before = int(opened.inner_text())
        episode = decided.live.client.open_episode(EpisodeOpen())
        page.wait_for_function(
            "wanted => [...document.querySelectorAll('.figure')].some("
            "one => one.textContent.includes('open episodes') && one.querySelector('dd').textContent.trim() == wanted)",
            arg=str(before + 1),
            timeout=30_000,
        )
        page.wait_for_selector(f"a[href$='episodes/{episode.id}']", timeout=30_000)
        decided.live.client.close_episode(episode.id)


def test_the_form_of_a_run_writes_its_toml_while_it_is_filled_in(decided: Decided) -> None:
    with looking(decided.live.url) as look:
        page = look.at("runs/new")
        page.locator("select[name=environment]").select_option(ENVIRONMENT)
        page.get_by_label("Learner steps").fill("9")
        page.get_by_label("Turns of each stage").fill("2, 4")
        page.get_by_label("Steps of a stage").fill("3")
        page.wait_for_function("() => document.querySelector('#toml').value.includes('every = 3')", timeout=30_000)
        page.get_by_role("button", name="Start this run").click()
        page.wait_for_url("**/ui/runs/run_*")
        run = decided.live.client.run(page.url.rpartition("/")[2])
        assert (run.config.steps, run.trigger) == (9, "dashboard")
        assert run.config.play is not None and run.config.play.environment == ENVIRONMENT
        decided.live.client.cancel_run(run.id)


def test_learning_curves_are_drawn_zoomed_together_and_lead_to_the_episodes_of_a_step(
    decided: Decided, tmp_path: Path
) -> None:
    with looking(decided.live.url) as look:
        page = look.at(f"learning?run={decided.promoted.id}&against={decided.rejected.id}")
        page.wait_for_selector("[data-charts][data-ready]", timeout=30_000)
        assert page.locator("[data-charts] canvas").count() >= 1
        chart = page.locator(".chart", has=page.get_by_role("heading", name="Entropy"))
        assert "run" in chart.locator(".u-legend").inner_text()
        chart.locator(".u-over").click(position={"x": 5, "y": 60})
        behind = page.get_by_role("link", name="Episodes behind it").first
        assert f"run={decided.promoted.id}&step=0" in behind.get_attribute("href")
        with page.expect_download() as downloading:
            chart.get_by_role("button", name="Save Entropy as CSV").click()
        downloading.value.save_as(tmp_path / "entropy.csv")
        rows = list(csv.reader((tmp_path / "entropy.csv").read_text().splitlines()))
        assert rows[0][0] == "step" and [float(value) for value in rows[1]] == [0.0, 0.5, 0.5]
        with page.expect_download() as downloading:
            chart.get_by_role("button", name="Save Entropy as PNG").click()
        downloading.value.save_as(tmp_path / "entropy.png")
        assert (tmp_path / "entropy.png").read_bytes().startswith(b"\x89PNG")
        look.wrong[:] = [text for text in look.wrong if "blob:" not in text]


def test_a_person_logs_in_and_out(tmp_path: Path) -> None:
    settings = settings_for(
        tmp_path / "data",
        model=str(script(tmp_path / "script", "Hello.")),
        keys="required",
        environments=EnvironmentSettings(workers=0),
    )
    with serving(settings) as live:
        key = new_key(live, "admin")
        with looking(live.url) as look:
            page = look.at("runs")
            assert "/ui/login?next=runs" in page.url
            page.get_by_label("API key").fill("up-wrong")
            page.get_by_role("button", name="Log in").click()
            assert "invalid or revoked" in page.get_by_role("alert").inner_text()
            page.get_by_label("API key").fill(key.key)
            page.get_by_role("button", name="Log in").click()
            page.wait_for_url("**/ui/runs")
            assert page.evaluate("document.cookie") == ""
            assert key.name in page.locator("header").inner_text()
            page.get_by_role("button", name="Log out").click()
            page.wait_for_url("**/ui/login")
            assert "/ui/login" in look.at("").url
            look.wrong[:] = [text for text in look.wrong if "401" not in text]
