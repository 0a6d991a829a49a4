"""When a trigger starts its run tonight, and when it does not."""

from __future__ import annotations

from datetime import datetime
from types import SimpleNamespace
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest

from server.errors import BadRequest
from server.training.rehearsal.report import Finding
from server.training.rehearsal.when import trigger_finding
from server.training.scheduling.schedule import Schedule
from server.training.scheduling.settings import ScheduleSettings
from server.training.scheduling.triggers import next_time
from server.training.scheduling.windows import Windows
from upturn.wire import (
    CronTrigger,
    EpisodesTrigger,
    IntervalTrigger,
    LivePlan,
    RunBudget,
    RunConfig,
    Trigger,
    TriggerView,
)

EVENING = datetime(2026, 3, 3, 20, 0, tzinfo=ZoneInfo("Europe/Berlin")).timestamp()
NIGHTLY = CronTrigger(kind="cron", cron="0 1 * * *", timezone="Europe/Berlin")
HOURS = RunConfig(steps=1, budget=RunBudget(minutes=240))


def found(trigger: Trigger, run: RunConfig | None = HOURS, windows: tuple[str, ...] = (), **more: Any) -> Finding:
    def run_of(_: Trigger) -> RunConfig:
        if run is None:
            raise BadRequest("this server has no configured run")
        return run

    schedule = cast(Schedule, SimpleNamespace(windows=Windows(windows), run_of=run_of))
    settings = ScheduleSettings(windows=list(windows), pause_outside_windows=more.pop("pause", False))
    view = TriggerView(
        name="nightly",
        source="api",
        trigger=trigger,
        next_at=more.pop("next_at") if "next_at" in more else next_time(trigger, EVENING, EVENING),
        due_since=more.pop("due_since", None),
        waits_for=more.pop("waits_for", "its time"),
        fired_at=None,
        fired_run=None,
        fired_why=None,
    )
    return trigger_finding(view, schedule, settings, EVENING)


def test_a_nightly_trigger_says_when_it_starts_on_its_own_clock() -> None:
    assert found(NIGHTLY) == Finding("ok", "starts Wed 2026-03-04 01:00 CET")
    assert found(NIGHTLY, windows=("01:00-06:00 Europe/Berlin",)).result == "ok"
    assert found(IntervalTrigger(kind="interval", every_s=3600)).text == "starts Tue 2026-03-03 20:00 UTC"


@pytest.mark.parametrize(
    ("trigger", "why"),
    [
        (NIGHTLY.model_copy(update={"cron": "0 0 30 2 *"}), "never fires"),
        (NIGHTLY.model_copy(update={"timezone": "Europe/Nowhere"}), "does not exist"),
    ],
)
def test_a_trigger_that_never_fires_has_failed(trigger: CronTrigger, why: str) -> None:
    finding = found(trigger, next_at=None)
    assert finding.result == "failed" and why in finding.text


def test_a_trigger_without_a_next_time_or_a_run_has_failed() -> None:
    assert found(NIGHTLY, next_at=None).result == "failed"
    assert found(NIGHTLY, run=None) == Finding("failed", "this server has no configured run")


def test_a_trigger_that_does_not_fire_tonight_is_a_warning() -> None:
    finding = found(CronTrigger(kind="cron", cron="0 1 * * sun", timezone="Europe/Berlin"))
    assert finding.result == "warning" and "Sun 2026-03-08 01:00 CET" in finding.text


def test_a_trigger_that_is_due_while_no_window_is_open_is_a_warning_with_the_time_it_starts() -> None:
    finding = found(NIGHTLY, windows=("02:30-06:00 Europe/Berlin",))
    assert finding.result == "warning" and "01:00 CET" in finding.text and "02:30 CET" in finding.text


def test_a_trigger_that_is_due_already_starts_when_the_window_opens() -> None:
    finding = found(NIGHTLY, windows=("22:00-06:00 Europe/Berlin",), due_since=EVENING - 60)
    assert "starts Tue 2026-03-03 22:00 CET" in finding.text


def test_a_run_that_may_outlast_its_window_is_a_warning() -> None:
    short, endless = ("01:00-03:00 Europe/Berlin",), RunConfig(steps=1)
    assert found(NIGHTLY, windows=short).result == "ok"
    assert "120 min before its window closes" in found(NIGHTLY, windows=short, pause=True).text
    assert "set budget.minutes" in found(NIGHTLY, endless, windows=short).text
    assert "has no budget" in found(NIGHTLY, endless, windows=short, pause=True).text
    assert found(NIGHTLY, windows=("01:00-06:00 Europe/Berlin",), pause=True).result == "ok"


def test_a_trigger_that_waits_for_episodes_says_how_many_there_are() -> None:
    trigger = EpisodesTrigger(kind="episodes", count=200)
    assert found(
        trigger, waits_for="12 of 200"
    ).text == "waits for 12 of 200, and its run takes at most 64 of them: " + ("raise steps or live.limit")
    enough = RunConfig(steps=4, live=LivePlan(limit=64))
    assert found(trigger, enough, waits_for="12 of 200") == Finding("ok", "waits for 12 of 200")
