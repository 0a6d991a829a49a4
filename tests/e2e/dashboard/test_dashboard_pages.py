"""Home, versions, runs, schedule and learning: what they say, and what their forms do."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest
from markupsafe import escape

from server.dashboard import assets
from tests.e2e.dashboard.conftest import EVIL, Decided
from tests.support.live import Live
from tests.support.pages.signed_in import Visitor
from tests.support.runs.gated import ENVIRONMENT, TASKS
from tests.support.runs.scripted import ASK, reward_two
from upturn.wire import GateEvidence, PairedTasks, PromotionView


def decisions(live: Live) -> dict[str, PromotionView]:
    """Return the newest row of the ledger for each action of the gate."""
    return {row.action: row for row in reversed(live.client.promotions().data) if row.decided_by == "gate"}


def area_of(page: str) -> str:
    """Return the TOML in the page's text area."""
    found = re.search(r"<textarea[^>]*>\n?(.*?)</textarea>", page, re.DOTALL)
    assert found is not None
    return unescape(found[1])


def test_an_empty_server_has_every_page_and_says_what_to_do(fresh: Live) -> None:
    visitor = Visitor(fresh)
    for place, said in {
        "": "No episode yet",
        "versions": "@0",
        "versions/0": "it is the base model",
        "runs": "No run yet",
        "runs/new": "Start this run",
        "learning": "Nothing has been learned yet",
        "schedule": "nothing starts runs by itself",
        "decisions/1": "The first champion",
    }.items():
        answer = visitor.get(place)
        assert answer.status_code == 200 and said in answer.text, place


def test_home_says_whether_it_is_well_what_it_does_and_whether_it_gets_better(decided: Decided) -> None:
    reward_two(decided.live)
    page = decided.visitor.get("").text
    assert "Is it getting better?" in page and 'href="./versions/1"' in page
    assert f'href="./runs/{decided.queued.id}"' in page and f'href="./runs/{decided.promoted.id}"' in page
    assert 'sse-connect="./live/home"' in page
    rejected = decisions(decided.live)["reject"]
    assert f'href="./decisions/{rejected.id}"' in page


def test_versions_show_their_descent_and_every_decision(decided: Decided) -> None:
    page = decided.visitor.get("versions").text
    for version in (0, 1, 2):
        assert f'href="./versions/{version}"' in page and f">@{version}</text>" in page
    assert len(re.findall(r'class="knot champion', page)) >= 1 and 'class="knot rejected' in page
    for row in decided.live.client.promotions().data:
        assert f'href="./decisions/{row.id}"' in page and str(escape(row.reason[:40])) in page
    one = decided.visitor.get("versions/2").text
    assert f'href="../runs/{decided.rejected.id}"' in one and "Promote @2" in one
    assert 'href="../episodes?version=2&amp;live=true"' in one


def test_a_decision_shows_its_test_its_intervals_and_the_episodes_of_each_task(decided: Decided) -> None:
    for action, row in decisions(decided.live).items():
        assert isinstance(row.evidence, GateEvidence)
        page = decided.visitor.get(f"decisions/{row.id}").text
        figures = row.evidence.environments[ENVIRONMENT]
        assert ("No objection." in page) == (action == "promote")
        for objection in row.evidence.objections:
            assert str(escape(objection)) in page
        assert page.count('class="interval') == 1 and f"{figures.tasks} tasks" in page
        pairs = decided.live.http.get(f"/v1/promotions/{row.id}/tasks").json()
        paired = PairedTasks.model_validate(pairs).data
        assert {pair.task for pair in paired} <= set(TASKS) and len(paired) == figures.tasks
        for pair in paired:
            assert len(pair.champion) == len(pair.candidate) == 2
            assert pair.gain == (1.0 if action == "promote" else -1.0)
            assert all(f"episodes/{one.episode_id}" in page for one in (*pair.champion, *pair.candidate))
    by_hand = next(row for row in decided.live.client.promotions().data if row.evidence is None)
    assert "no evidence" in decided.visitor.get(f"decisions/{by_hand.id}").text
    assert decided.live.http.get(f"/v1/promotions/{by_hand.id}/tasks").json() == {"data": []}
    assert decided.live.http.get("/v1/promotions/999/tasks").status_code == 404


def test_erased_episodes_are_missing_from_the_pairs(decided: Decided) -> None:
    row = decisions(decided.live)["reject"]
    path = f"/v1/promotions/{row.id}/tasks"
    first = PairedTasks.model_validate(decided.live.http.get(path).json()).data[0]
    decided.live.client.erase_episode(first.champion[0].episode_id)
    left = PairedTasks.model_validate(decided.live.http.get(path).json()).data[0]
    assert left.champion == first.champion[1:] and left.candidate == first.candidate
    assert decided.visitor.get(f"decisions/{row.id}").status_code == 200


def test_texts_of_others_are_shown_as_text(decided: Decided) -> None:
    for place in ("", "versions", "versions/0", "runs", f"runs/{decided.queued.id}"):
        page = decided.visitor.get(place).text
        assert "<img src=x" not in page and "<script>alert" not in page and "49" not in re.findall(r"{{.*?}}", page), (
            place
        )
    assert str(escape(EVIL)) in decided.visitor.get("runs").text
    refused = decided.visitor.get(f"nowhere/{EVIL}")
    assert refused.status_code == 404 and "<img src=x" not in refused.text
    assert "<img src=x" not in decided.visitor.get(f"runs/new/toml?campaign={EVIL}&environment={EVIL}").text


def test_a_promotion_and_a_rollback_by_hand_are_in_the_ledger_with_their_reason(decided: Decided) -> None:
    answer = decided.visitor.send("versions/2/promote", reason="trying it")
    assert (answer.status_code, answer.headers["location"]) == (303, "../../versions/2")
    assert "Roll back to @1" in decided.visitor.get("versions").text
    undone = decided.visitor.send("rollback", reason="it was worse")
    assert (undone.status_code, undone.headers["location"]) == (303, "./versions/1")
    newest = decided.live.client.promotions().data[:2]
    assert [(row.action, row.to_version, row.reason) for row in newest] == [
        ("rollback", 1, "it was worse"),
        ("promote", 2, "trying it"),
    ]


def test_a_run_is_paused_resumed_and_cancelled(decided: Decided) -> None:
    run = decided.queued.id
    for change, state in (("pause", "paused"), ("resume", "queued")):
        assert decided.visitor.send(f"runs/{run}/{change}").status_code == 303
        assert decided.live.client.run(run).state == state
    assert decided.visitor.send(f"runs/{run}/delete").status_code == 400
    assert decided.visitor.send("runs/none/pause").status_code == 404
    made = decided.visitor.send("runs", configured="yes")
    started = made.headers["location"].rpartition("/")[2]
    view = decided.live.client.run(started)
    assert (view.trigger, view.config.campaign, view.config.steps) == ("dashboard", "nightly", 4)
    assert decided.visitor.send(f"runs/{started}/cancel").status_code == 303
    assert decided.live.client.run(started).state == "cancelled"
    again = decided.visitor.send(f"runs/{started}/cancel")
    assert again.status_code in (303, 409)


def test_a_form_writes_the_toml_that_starts_the_run(decided: Decided) -> None:
    fields = f"environment={ENVIRONMENT}&split=train&steps=6&horizon=stepwise&rounds=2,4&every=3&groups=1&lr=1e-5"
    toml = area_of(decided.visitor.get(f"runs/new/toml?{fields}").text)
    assert toml.startswith("[schedule.run]\n") and 'schedule = {kind = "stepwise", rounds = [2, 4], every = 3}' in toml
    made = decided.visitor.send("runs", toml=toml)
    run = decided.live.client.run(made.headers["location"].rpartition("/")[2])
    assert run.config.steps == 6 and run.config.optimizer.lr == 1e-5 and run.config.play is not None
    like = area_of(decided.visitor.get(f"runs/new?like={run.id}").text)
    assert "rounds = [2, 4]" in like and f'environment = "{ENVIRONMENT}"' in like
    decided.live.client.cancel_run(run.id)


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("steps = ", "this is not TOML"),
        ("steps = 0", "steps: "),
        ("", "steps: "),
        ('steps = 3\nalgorithm = "none"', "algorithm: "),
        ("steps = 3\nwrong = 1", "wrong: "),
        ('steps = 3\nkind = "adapter"', "this server serves full weights"),
        ('steps = 3\nschedule = {kind = "stepwise", rounds = [2, 4], every = 100}', "stays at the first horizon"),
    ],
)
def test_a_run_that_cannot_start_is_explained_and_its_text_kept(decided: Decided, toml: str, said: str) -> None:
    before = len(decided.live.client.runs().data)
    answer = decided.visitor.send("runs", toml=toml)
    assert answer.status_code == 400 and str(escape(said)) in answer.text
    assert area_of(answer.text).strip() == (toml.strip() or area_of(answer.text).strip())
    assert len(decided.live.client.runs().data) == before


def test_the_schedule_says_whether_the_next_run_happens_and_why_not(decided: Decided) -> None:
    page = decided.visitor.get("schedule").text
    assert "yearly" in page and "01:00-06:00 Europe/Berlin" in page and decided.queued.id in page
    decided.visitor.send(f"runs/{decided.queued.id}/pause")
    assert "No, as long as a run is paused." in decided.visitor.get("schedule").text
    decided.visitor.send(f"runs/{decided.queued.id}/resume")
    for fields, status in (
        ({"name": "after-ten", "kind": "episodes", "amount": "10"}, 303),
        ({"name": "after-ten", "kind": "episodes", "amount": "10"}, 409),
        ({"name": "quiet", "kind": "idle", "amount": "many"}, 400),
        ({"name": "half", "kind": "episodes", "amount": "1.5"}, 400),
        ({"name": "UPPER", "kind": "idle", "amount": "1"}, 400),
        ({"name": "odd", "kind": "cron", "cron": "every night"}, 400),
    ):
        assert decided.visitor.send("schedule/triggers", **fields).status_code == status, fields
    assert "after-ten" in decided.visitor.get("schedule").text
    assert decided.visitor.send("schedule/triggers/remove", name="yearly").status_code == 409
    assert decided.visitor.send("schedule/triggers/remove", name="after-ten").status_code == 303
    assert "after-ten" not in decided.visitor.get("schedule").text


def test_a_rehearsal_is_shown_while_it_runs(fresh: Live) -> None:
    visitor = Visitor(fresh)
    started = visitor.send(
        "runs", toml=f'steps = 1\nplay = {{environment = "{ENVIRONMENT}", split = "train"}}', do="rehearse"
    )
    assert started.status_code == 303, started.text
    place = started.headers["location"].removeprefix("./")
    assert place.startswith("schedule?rehearsal=")
    assert "Rehearsal" in visitor.get(place).text
    part = visitor.get(place.replace("schedule?rehearsal", "schedule/rehearsal?id")).text
    assert part.lstrip().startswith("<section") and "<html" not in part


def test_the_learning_page_reads_the_steps_of_its_runs(decided: Decided) -> None:
    page = decided.visitor.get(f"learning?run={decided.promoted.id}&against={decided.rejected.id}").text
    assert f'data-run="{decided.promoted.id}" data-against="{decided.rejected.id}"' in page
    data = decided.visitor.get(f"learning/data?run={decided.promoted.id}").json()
    assert data == decided.live.http.get(f"/v1/runs/{decided.promoted.id}/steps").json()
    assert decided.visitor.get("learning?run=none").status_code == 404
    assert decided.visitor.get("learning/data?run=none").status_code == 404


def test_changes_of_the_home_page_are_sent_as_they_happen(decided: Decided) -> None:
    answer: Any
    with decided.live.http.stream("GET", "/ui/live/home", headers=decided.visitor.headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        first = [next(line for line in lines if line.startswith("event: ")) for _ in range(2)]
        assert first == ["event: now", "event: recent"]
        opened = decided.live.openai().chat.completions.create(model="policy", messages=ASK)
        assert opened.choices
        assert next(line for line in lines if line.startswith("event: ")) == "event: now"


def test_files_have_a_path_that_changes_with_them_and_are_kept(decided: Decided) -> None:
    page = decided.visitor.get("").text
    files = re.findall(r'(?:href|src)="\./(static/[^"]+)"', page)
    assert len(files) >= 4
    for file in files:
        answer = decided.live.http.get(f"/ui/{file}")
        assert answer.status_code == 200 and "immutable" in answer.headers["cache-control"], file
        assert f"static/{assets.digest()}/" in file
    old = decided.live.http.get("/ui/static/0123456789abcdef/style.css")
    assert old.status_code == 200 and old.headers["cache-control"] == "no-cache"
    for name in ("nothing.css", "../frame.py", "..%2fframe.py", "vendor/README.md"):
        assert decided.live.http.get(f"/ui/static/{assets.digest()}/{name}").status_code == 404, name
