"""Runs that triggers start."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from server.settings import Settings
from server.training.scheduling.settings import ScheduleSettings
from tests.support.live import Live, script, serving, settings_for, until
from tests.support.runs.scripted import FEW_LIVE, LEARNER, claim, lease, reward_two
from upturn.client import UpturnAPIError
from upturn.wire import (
    BatchAck,
    BatchRequest,
    EpisodesTrigger,
    IntervalTrigger,
    RunBudget,
    RunClaim,
    RunConfig,
    RunRequest,
)

HOURLY = {"hourly": IntervalTrigger(kind="interval", every_s=3600)}


def check_schedule(live: Live, after_s: float = 0.0) -> None:
    """Make a server check its schedule as if `after_s` seconds had passed."""
    live.parts.schedule.clock = lambda: time.time() + after_s
    asyncio.run_coroutine_threadsafe(live.parts.schedule.check(), live.loop).result(timeout=60)


def trigger(live: Live, name: str = "hourly") -> dict[str, Any]:
    shown: list[dict[str, Any]] = live.http.get("/v1/schedule").json()["triggers"]
    return next(t for t in shown if t["name"] == name)


def test_scored_episodes_start_a_run_without_waiting_for_the_next_periodic_check(tmp_path: Path) -> None:
    model = script(tmp_path / "script", "Hello.")
    settings = settings_for(
        tmp_path / "data", model=str(model), schedule=ScheduleSettings(run=RunConfig(steps=1, live=FEW_LIVE))
    )
    with serving(settings) as live:
        made = live.client.add_trigger("fresh", EpisodesTrigger(kind="episodes", count=2))
        assert made.waits_for == "0 of 2 newly scored episodes"
        with pytest.raises(UpturnAPIError, match="trigger_exists"):
            live.client.add_trigger("fresh", EpisodesTrigger(kind="episodes", count=3))
        check_schedule(live)
        reward_two(live)
        until(lambda: len(live.client.runs().data) == 1, "two scored episodes started no run")
        assert live.client.runs().data[0].trigger == "fresh: 2 newly scored episodes"
        live.client.remove_trigger("fresh")
        assert live.client.schedule().triggers == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "T", "trigger": {"kind": "idle", "minutes": 5}},
        {"name": "t", "trigger": {"kind": "idle", "minutes": 0}},
        {"name": "t", "trigger": {"kind": "cron", "cron": "0 3 * * * *"}},
        {"name": "t", "trigger": {"kind": "sometimes"}},
        {"name": "t", "trigger": {"kind": "cron", "cron": "0 3 * * *", "timezone": "Mars"}},
        {"name": "t", "trigger": {"kind": "interval", "every_s": 60}},
    ],
)  # The last one has no run to start.
def test_an_invalid_trigger_is_refused(live: Live, wrong: dict[str, Any]) -> None:
    answer = live.http.post("/v1/schedule/triggers", json=wrong)
    assert answer.status_code == 400 and answer.json()["error"]["message"]
    assert live.http.get("/v1/schedule").json()["triggers"] == []


def test_a_paused_run_continues_at_its_step_with_the_same_batch(live: Live) -> None:
    reward_two(live)
    run_id = claim(live)
    live.client.acknowledge_batch(lease(live, run_id).id, BatchAck(learner=LEARNER, state="trained"))
    reward_two(live, "h")
    batch = lease(live, run_id, step=1)
    paused = live.client.pause_run(run_id)
    assert (paused.state, paused.reason) == ("paused", "paused by request")
    for call in (lambda: lease(live, run_id, step=1), lambda: live.client.heartbeat_run(run_id, LEARNER)):
        with pytest.raises(UpturnAPIError) as lost:
            call()
        assert lost.value.code == "lease_lost"
    assert live.client.claim_run(RunClaim(learner="another")) is None
    assert live.client.resume_run(run_id).state == "queued"
    again = live.client.claim_run(RunClaim(learner="another"))
    assert again is not None and (again.id, again.step) == (run_id, 1)
    same = live.client.lease_batch(BatchRequest(run_id=run_id, learner="another", step=1, horizon=5))
    assert (same.id, same.samples) == (batch.id, batch.samples)


def test_a_run_whose_budget_is_used_up_ends_done_and_its_learner_is_notified(live: Live) -> None:
    reward_two(live)
    run = live.client.create_run(RunRequest(config=RunConfig(steps=9, live=FEW_LIVE, budget=RunBudget(tokens=20))))
    live.client.claim_run(RunClaim(learner=LEARNER))
    batch = lease(live, run.id)
    live.client.acknowledge_batch(
        batch.id, BatchAck(learner=LEARNER, state="trained", metrics={"trained_tokens": 26.0})
    )
    ended = live.client.run(run.id)
    assert (ended.state, ended.step, ended.reason) == ("done", 1, "budget: 26 of 20 trained tokens are used")
    with pytest.raises(UpturnAPIError) as told:
        lease(live, run.id, step=1)
    assert told.value.code == "run_ended"


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"triggers": HOURLY}, r"needs a run of its own, or schedule\.run"),
        ({"windows": ["01:00-06:00"]}, "is not a window"),
        ({"triggers": {"t": {"kind": "cron", "cron": "0 3 * *"}}, "run": {"steps": 1}}, "needs five fields"),
    ],
)
def test_a_schedule_that_could_never_start_a_run_is_refused(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        ScheduleSettings.model_validate(wrong)


def test_triggers_can_be_set_in_the_file_and_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "upturn.toml"
    file.write_text("""
[schedule]
windows = ["01:00-06:00 Europe/Berlin"]
run = {steps = 3}
[schedule.triggers.nightly]
kind = "cron"
cron = "0 3 * * *"
timezone = "Europe/Berlin"
""")
    monkeypatch.setenv("UPTURN_SCHEDULE__TRIGGERS", '{"quiet": {"kind": "idle", "minutes": 30, "run": {"steps": 1}}}')
    schedule = Settings.load(["--config", str(file)]).schedule
    assert {name: t.kind for name, t in schedule.triggers.items()} == {"nightly": "cron", "quiet": "idle"}


def test_flags_override_the_environment_which_overrides_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "upturn.toml"
    file.write_text('port = 1\nname = "file"\ndefault_horizon = 7\n[engine]\nkind = "local"\n')
    monkeypatch.setenv("UPTURN_PORT", "2")
    monkeypatch.setenv("UPTURN_NAME", "environment")
    settings = Settings.load(["--config", str(file), "--port", "3"])
    assert (settings.port, settings.name, settings.default_horizon, settings.engine.kind) == (
        3,
        "environment",
        7,
        "local",
    )


@pytest.mark.parametrize("wrong", ["prot = 1", '[engine]\nkid = "local"', "port = 70000"])
def test_an_invalid_setting_in_the_file_is_refused(tmp_path: Path, wrong: str) -> None:
    file = tmp_path / "upturn.toml"
    file.write_text(wrong)
    with pytest.raises(ValidationError):
        Settings.load(["--config", str(file)])


def test_an_unknown_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPTURN_PROT", "1")
    with pytest.raises(ValueError, match="UPTURN_PROT"):
        Settings.load([])
