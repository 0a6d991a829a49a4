"""What would fail at night fails in the evening, and a rehearsal leaves no trace."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from server.engines.protocol import Weights
from server.environments.settings import EnvironmentSettings
from server.errors import Conflict, NotFound
from server.store.tables import TriggerRow
from server.training.rehearsal.rehearsals import Rehearsals
from server.training.scheduling.settings import ScheduleSettings
from server.wiring.parts import Parts
from tests.support.in_process import running
from tests.support.live import script, settings_for
from tests.support.notifications.receiver import Receiver, receiving
from tests.support.notifications.told import notify, until
from tests.support.runs.gated import ENVIRONMENT, PLAN, TASKS
from tests.support.runs.rehearsed import CONFIG, NIGHTLY
from upturn.wire import (
    LivePlan,
    PlayPlan,
    RehearsalCheck,
    RehearsalRequest,
    RehearsalView,
    RunClaim,
    RunConfig,
)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@asynccontextmanager
async def serving(home: Path, receiver: Receiver | None = None, **more: Any) -> AsyncIterator[Parts]:
    """Serve a scripted model with a nightly trigger and a learner elsewhere."""
    environments = EnvironmentSettings(modules=["tests.support.environments.odd_inline"], workers=0)
    more.setdefault("schedule", ScheduleSettings(triggers={"nightly": NIGHTLY}))
    settings = settings_for(
        home / "data",
        model=str(script(home / "script", "add 1")),
        weights="adapter",
        environments=environments,
        notify=notify(receiver),
        **more,
    )
    async with running(settings) as parts:
        await parts.schedule.store_settings()
        await parts.runs.claim(RunClaim(learner="elsewhere"))
        yield parts


async def ended(rehearsals: Rehearsals, rehearsal_id: str) -> RehearsalView:
    while (view := rehearsals.view(rehearsal_id)).state == "running":
        await asyncio.sleep(0.01)
    return view


async def rehearsed(parts: Parts, config: RunConfig | None = None, **more: Any) -> list[RehearsalCheck]:
    started = await parts.rehearsals.start(RehearsalRequest(config=config, **more))
    return (await ended(parts.rehearsals, started.id)).checks


def failures(checks: list[RehearsalCheck]) -> dict[str, str]:
    return {check.name: check.text for check in checks if check.result == "failed"}


def tables(parts: Parts) -> dict[str, list[str]]:
    """Return every row of every table."""
    with closing(sqlite3.connect(parts.settings.data_dir / "upturn.db")) as connection:
        names = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
        return {name: sorted(map(repr, connection.execute(f'select * from "{name}"'))) for name in names}


async def test_a_night_that_can_start_is_ok_and_leaves_no_trace(tmp_path: Path, receiver: Receiver) -> None:
    async with serving(tmp_path, receiver) as parts:
        before, versions = tables(parts), parts.engine.versions
        checks = await rehearsed(parts)
        texts = {check.name: check.text for check in checks}
        assert failures(checks) == {}, texts
        assert texts["trigger nightly"].startswith("starts ") and "01:00 CE" in texts["trigger nightly"]
        assert texts["config"] == "grpo, adapter weights, learning rate 2e-05, 4 steps"
        assert texts["campaign"].startswith("campaign nightly begins with the champion's weights")
        assert texts["data"].startswith("plays 2 of ")
        assert texts["gate"].startswith(f"12 tasks of {ENVIRONMENT} decide at horizon 3")
        assert texts[f"environment {ENVIRONMENT}"].startswith("opened, 2 turns by policy@0, closed")
        assert texts["learner"].startswith("runs elsewhere and asked for a run")
        assert [check.name for check in checks if check.result == "warning"] == ["memory"]
        (told,) = receiver.got
        assert "rehearsal" in told.event["text"] and told.event["type"] == "notification.test"
        await until(lambda: parts.environments.health.open == 0, "an environment stayed open")
        assert (tables(parts), parts.engine.versions) == (before, versions)


def changed(**more: Any) -> RunConfig:
    return CONFIG.model_copy(update=more)


def play(**more: Any) -> RunConfig:
    return changed(play=PlayPlan(**{"environment": ENVIRONMENT, "split": "train", "group_size": 2, **more}))


def evaluation(**more: Any) -> RunConfig:
    return changed(evaluation=PLAN.model_copy(update=more))


@pytest.mark.parametrize(
    ("config", "check", "why"),
    [
        (play(environment="nowhere"), "data", "nowhere"),
        (play(environment="nowhere"), "environment nowhere", "nowhere"),
        (play(split="none"), "data", "has no split 'none'"),
        (play(split=None, tasks=["broken"]), f"environment {ENVIRONMENT}", "it cannot begin"),
        (play(split=None, tasks=["train/14"], agent="oracle"), f"environment {ENVIRONMENT} by its solver", "no solver"),
        (evaluation(tasks={ENVIRONMENT: TASKS[:3]}), "gate", "gate.min_tasks is 10"),
        (evaluation(tasks={ENVIRONMENT: ["train/none"]}), "gate", "has no task 'train/none'"),
        (evaluation(tasks={ENVIRONMENT: TASKS[:11]}, report=2), "gate", "gate.min_tasks is 10"),
        (evaluation(draw=100), "gate", "name more tasks"),
        (evaluation(guards={ENVIRONMENT: TASKS[:2]}), "gate", "10 are needed to rule out a fall"),
        (changed(kind="full"), "config", "this server serves adapter weights, the run trains full"),
        (changed(play=None, live=LivePlan(keys=["nobody"])), "data", "no such API key"),
    ],
)
async def test_what_would_fail_at_night_fails_in_the_evening(
    tmp_path: Path, config: RunConfig, check: str, why: str
) -> None:
    async with serving(tmp_path) as parts:
        found = failures(await rehearsed(parts, config))
        assert why in found.get(check, ""), found
        assert set(found) <= {check, "data", "gate", "environment nowhere", f"environment {ENVIRONMENT}"}


async def test_an_environment_that_breaks_in_a_turn_fails_and_is_closed(tmp_path: Path) -> None:
    script(tmp_path / "script", "raise")
    async with serving(tmp_path) as parts:
        await parts.engine.load(Weights(1, "adapter", script(tmp_path / "breaks", "raise")))
        parts.pointers.head = 1
        assert "LookupError" in failures(await rehearsed(parts))[f"environment {ENVIRONMENT}"]
        await until(lambda: parts.environments.health.open == 0, "an environment stayed open")


async def test_a_run_on_live_episodes_says_why_it_would_take_none(tmp_path: Path) -> None:
    async with serving(tmp_path) as parts:
        checks = await rehearsed(parts, changed(play=None, live=LivePlan()))
        (data,) = (check for check in checks if check.name == "data")
        assert (data.result, "there were no episodes" in data.text) == ("warning", True)


async def test_a_trigger_that_never_fires_fails_and_one_run_is_rehearsed_once(tmp_path: Path) -> None:
    rule = NIGHTLY.model_copy(update={"cron": "0 0 30 2 *"}).model_dump(mode="json")
    async with serving(tmp_path) as parts:
        row = TriggerRow(name="never", source="api", rule=rule, created_at=0.0)
        await parts.writer.write(lambda session: session.add(row))
        assert "never fires" in failures(await rehearsed(parts, trigger="never"))["trigger never"]
        assert [check.run for check in await rehearsed(parts) if check.name == "config"] == ["never, nightly"]
        with pytest.raises(NotFound, match="does not exist"):
            await parts.rehearsals.start(RehearsalRequest(trigger="none"))
        assert (await rehearsed(parts)) != [], "a refused request leaves nothing in progress"


async def test_a_receiver_that_refuses_fails_and_none_is_a_warning(tmp_path: Path, receiver: Receiver) -> None:
    receiver.statuses = [500]
    async with serving(tmp_path / "one", receiver) as parts:
        assert "HTTP 500" in failures(await rehearsed(parts))["notification"]
    async with serving(tmp_path / "two") as parts:
        (told,) = (check for check in await rehearsed(parts) if check.name == "notification")
        assert told.result == "warning" and "set notify.webhook" in told.text


async def test_two_at_once_are_refused_and_one_can_be_cancelled(tmp_path: Path, receiver: Receiver) -> None:
    receiver.go.clear()
    async with serving(tmp_path, receiver) as parts:
        asked = [parts.rehearsals.start(RehearsalRequest()) for _ in range(3)]
        started = await asyncio.gather(*asked, return_exceptions=True)
        (first,) = (one for one in started if isinstance(one, RehearsalView))
        assert [one.code for one in started if isinstance(one, Conflict)] == ["rehearsal_in_progress"] * 2
        await until(lambda: parts.rehearsals.view(first.id).pending == ["notification"])
        cut = await parts.rehearsals.cancel(first.id)
        assert (cut.state, cut.pending) == ("cancelled", [])
        assert "not finished" in failures(cut.checks)["notification"]
        assert (await parts.rehearsals.cancel(first.id)).checks == cut.checks
        limited = await rehearsed(parts, limit_s=1)
        assert failures(limited) == {"notification": "not finished when the rehearsal ended: give it more time"}
        receiver.go.set()
        assert failures(await rehearsed(parts)) == {}
        with pytest.raises(NotFound, match="keeps only the last one"):
            parts.rehearsals.view(first.id)


async def test_a_run_in_progress_comes_first_and_a_paused_one_is_in_the_way(tmp_path: Path) -> None:
    async with serving(tmp_path) as parts:
        made = await parts.runs.create(CONFIG, "test")
        (blocked,) = (check for check in await rehearsed(parts) if check.name == "schedule")
        assert (blocked.result, f"run {made.id} is queued" in blocked.text) == ("warning", True)
        await parts.runs.claim(RunClaim(learner="elsewhere"))
        with pytest.raises(Conflict, match=f"run {made.id} is training"):
            await parts.rehearsals.start(RehearsalRequest())
        await parts.runs.pause(made.id)
        assert "was paused by request" in failures(await rehearsed(parts))["schedule"]


def no_learner(parts: Parts) -> None:
    parts.runs.asked_at = time.time() - 3600


def no_engine(parts: Parts) -> None:
    parts.engine._running = False  # type: ignore[attr-defined]


def nothing(parts: Parts) -> None:
    pass


@pytest.mark.parametrize(
    ("happens", "check", "why"),
    [
        (nothing, "disk", "nearly full"),
        (no_learner, "learner", "start one (`python -m learner run`)"),
        (no_engine, "engine", "does not answer"),
        (no_engine, f"environment {ENVIRONMENT}", "the scripted engine is not running"),
        (nothing, "schedule", "nothing starts tonight"),
    ],
)
async def test_a_server_that_lacks_something_fails(
    tmp_path: Path, happens: Callable[[Parts], None], check: str, why: str
) -> None:
    least = 2**60 if check == "disk" else 0
    async with serving(tmp_path, schedule=ScheduleSettings(run=CONFIG), min_free_bytes=least) as parts:
        happens(parts)
        found = failures(await rehearsed(parts))
        assert why in found.get(check, ""), found


async def test_a_stopping_server_ends_its_rehearsal(tmp_path: Path, receiver: Receiver) -> None:
    receiver.go.clear()
    async with serving(tmp_path, receiver) as parts:
        first = await parts.rehearsals.start(RehearsalRequest())
        await until(lambda: parts.rehearsals.view(first.id).pending == ["notification"])
    assert parts.rehearsals.view(first.id).state == "cancelled"
