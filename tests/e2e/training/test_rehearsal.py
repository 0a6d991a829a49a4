"""`upturn rehearse` over HTTP: each result as it is known, one rehearsal at a time, and no trace of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server.training.scheduling.settings import ScheduleSettings
from tests.support.live import Live, until
from tests.support.notifications.receiver import Receiver, receiving
from tests.support.notifications.told import notify
from tests.support.runs.gated import served
from tests.support.runs.rehearsed import CONFIG, NIGHTLY, failures, rehearsed, tables
from tests.support.runs.scripted import LEARNER, reward_two
from upturn.client import UpturnAPIError
from upturn.command.app import build
from upturn.command.run import run
from upturn.wire import LivePlan, RehearsalRequest, RunClaim


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[Live]:
    """A server with a nightly trigger, a webhook, and a learner elsewhere."""
    home = tmp_path_factory.mktemp("rehearsed")
    schedule = ScheduleSettings(triggers={"nightly": NIGHTLY})
    with served(home, "adapter", schedule=schedule, notify=notify(receiver)) as made:
        reward_two(made)
        yield made


@pytest.fixture(autouse=True)
def waiting_learner(live: Live) -> None:
    live.client.claim_run(RunClaim(learner=LEARNER))


def test_the_command_prints_each_result_and_leaves_no_trace(live: Live, capsys: pytest.CaptureFixture[str]) -> None:
    before = tables(live)
    assert run(build(), ["rehearse", "nightly", "--server", live.url], "upturn") == 0
    shown = capsys.readouterr().out
    assert "ok       trigger nightly: starts " in shown and "01:00 CE" in shown
    assert "ok       environment odd/inline:x (nightly): opened, 2 turns by policy@0, closed" in shown
    assert "ok       notification: arrived at the webhook" in shown and "failed" not in shown
    assert shown.splitlines()[-1].startswith("done in ")
    assert tables(live) == before and live.client.runs().data == live.client.campaigns().data == []
    assert run(build(), ["rehearse", "--json", "--server", live.url], "upturn") == 0
    assert json.loads(capsys.readouterr().out)["state"] == "done"


def test_the_command_takes_a_file_and_fails_with_its_run(
    live: Live, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.toml"
    file.write_text('steps = 1\nplay = {environment = "odd/inline:x", split = "none"}\n')
    assert run(build(), ["rehearse", "--run", str(file), "--server", live.url], "upturn") == 1
    assert "failed   data (request): odd/inline:x has no split 'none'" in capsys.readouterr().out
    assert run(build(), ["rehearse", "nightly", "--run", str(file), "--server", live.url], "upturn") == 2
    assert run(build(), ["rehearse", "none", "--server", live.url], "upturn") == 1


def test_live_episodes_are_counted_and_not_used(live: Live) -> None:
    before = tables(live)
    config = CONFIG.model_copy(update={"play": None, "evaluation": None, "live": LivePlan(min_episodes=1)})
    for _ in range(2):
        texts = {check.name: check.text for check in rehearsed(live, config)}
        assert texts["data"] == "takes 2 live episodes in its first step, if it starts now"
    few = config.model_copy(update={"live": LivePlan()})
    (data,) = (check for check in rehearsed(live, few) if check.name == "data")
    assert data.result == "warning" and "2 usable live episodes, fewer than live.min_episodes" in data.text
    assert tables(live) == before


def test_a_second_rehearsal_at_once_is_refused(live: Live, receiver: Receiver) -> None:
    receiver.go.clear()
    try:
        first = live.client.start_rehearsal(RehearsalRequest())
        until(lambda: live.client.rehearsal(first.id).pending == ["notification"])
        with pytest.raises(UpturnAPIError, match="409 rehearsal_in_progress"):
            live.client.start_rehearsal(RehearsalRequest())
        answer = live.openai().chat.completions.create(model="policy", messages=[{"role": "user", "content": "Hi"}])
        assert answer.choices[0].message.content, "serving continues"
        assert live.client.cancel_rehearsal(first.id).state == "cancelled"
    finally:
        receiver.go.set()
    assert failures(rehearsed(live)) == {}
    with pytest.raises(UpturnAPIError, match="404 rehearsal_not_found"):
        live.client.rehearsal(first.id)


@pytest.mark.parametrize(
    ("body", "status"),
    [({"limit_s": "soon"}, 400), ({"limit_s": 1e9}, 400), ({"config": {}}, 400), ({"trigger": "none"}, 404)],
)
def test_bad_requests_are_refused_and_begin_nothing(live: Live, body: dict[str, Any], status: int) -> None:
    assert live.http.post("/v1/rehearsals", json=body).status_code == status
    assert failures(rehearsed(live)) == {}
