"""When triggers are due, and which runs they start: on a real database, with a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import migrations
from server.errors import BadRequest, Conflict, NotFound
from server.store.database import Database, new_id
from server.store.tables import BatchRow, EpisodeRow, MetricRow, RewardRow, RunEpisodeRow, RunRow, StepRow, TurnRow
from server.store.writer import Writer
from server.training.budget import end_if_spent
from server.training.runs import Runs
from server.training.scheduling.dispatch import WINDOW_CLOSED
from server.training.scheduling.schedule import MAX_PAUSE_S, Schedule
from server.training.scheduling.settings import ScheduleSettings
from server.training.scheduling.triggers import check_trigger, describe, next_time
from server.versions.routing import Pointers
from upturn.wire import (
    CronTrigger,
    EpisodesTrigger,
    IdleTrigger,
    IntervalTrigger,
    LivePlan,
    RunClaim,
    RunConfig,
    RunEnd,
    RunView,
    TriggerCreate,
)

pytestmark = pytest.mark.anyio
MIDNIGHT = datetime(2026, 6, 1, tzinfo=UTC).timestamp()
HOUR = 3600.0
RUN = RunConfig(algorithm="reinforce_pp", steps=2, live=LivePlan(min_episodes=1))


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = MIDNIGHT

    def __call__(self) -> float:
        return self.now


class Server:
    """The part of a server that starts runs."""

    def __init__(self, url: str, clock: Clock, **settings: Any) -> None:
        self.clock = clock
        self.database = Database(url)
        migrations.upgrade(self.database.writer)
        self.writer = Writer(self.database.writer)
        self.runs = Runs(self.database, self.writer, Pointers("policy", shared=True), 60.0, clock)
        self.schedule = Schedule(
            ScheduleSettings(**{"run": RUN, **settings}), self.database, self.writer, self.runs, None, clock
        )

    async def begin(self) -> None:
        """Store the triggers of the settings, as at the start, without starting the background task."""
        await self.schedule.store_settings()

    async def check(self, after_s: float = 0.0) -> list[tuple[str, str]]:
        """Move the clock, check the schedule, and return all runs, oldest first."""
        self.clock.now += after_s
        await self.schedule.check()
        return [(run.state, run.trigger) for run in reversed(await self.runs.views())]

    async def claim(self, learner: str = "learner") -> RunView:
        claimed = await self.runs.claim(RunClaim(learner=learner))
        assert claimed is not None
        return claimed

    async def finish(self) -> None:
        """Claim the queued run and end it."""
        run = await self.claim()
        await self.runs.end(run.id, RunEnd(learner="learner", state="done", reason="tested"))

    async def write(self, *rows: Any) -> None:
        await self.writer.write(lambda session: session.add_all(rows))

    async def waits_for(self, name: str = "t") -> str:
        return next(t.waits_for for t in (await self.schedule.view()).triggers if t.name == name)


Serve = Callable[..., Server]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start servers that share one database and one clock."""
    servers: list[Server] = []
    clock = Clock()

    def make(**settings: Any) -> Server:
        servers.append(Server(f"sqlite:///{tmp_path / 'upturn.db'}", clock, **settings))
        return servers[-1]

    yield make
    for server in servers:
        server.writer.close()
        server.database.close()


def episode(clock: Clock, status: str = "closed", **more: Any) -> EpisodeRow:
    values: dict[str, Any] = {"environment": None, "play_id": None, "purpose": "other", "trainable": True, **more}
    return EpisodeRow(
        id=new_id("ep"),
        status=status,
        seed=0,
        horizon=9,
        policy_version=0,
        details={},
        opened_at=clock() - 1,
        closed_at=None if status == "open" else clock(),
        **values,
    )


def reward(of: EpisodeRow, clock: Clock) -> RewardRow:
    return RewardRow(id=new_id("rw"), episode_id=of.id, value=1.0, source="user", created_at=clock())


def turn(of: EpisodeRow, clock: Clock, index: int = 0) -> TurnRow:
    return TurnRow(
        id=new_id("turn"),
        episode_id=of.id,
        index=index,
        digest="",
        messages=[],
        answer={},
        prompt_tokens=1,
        finish_reason="stop",
        completion_tokens=1,
        policy_version=0,
        temperature=1.0,
        trainable=True,
        forked=False,
        duration_ms=1.0,
        created_at=clock(),
    )


def utc(moment: float | None) -> str:
    assert moment is not None
    return datetime.fromtimestamp(moment, UTC).strftime("%a %d %H:%M")


# ------------------------------------------------------------------------------------------------------- times


def test_cron_counts_weekdays_from_sunday_and_follows_its_time_zone() -> None:
    def nexts(cron: str, zone: str = "UTC") -> list[str]:
        trigger, found = CronTrigger(kind="cron", cron=cron, timezone=zone), [MIDNIGHT]
        for _ in range(3):
            found.append(next_time(trigger, 0.0, found[-1]) or 0.0)
        return [utc(moment) for moment in found[1:]]

    assert nexts("0 3 * * *", "Europe/Berlin") == ["Mon 01 01:00", "Tue 02 01:00", "Wed 03 01:00"]
    assert (
        nexts("0 3 * * 0")
        == nexts("0 3 * * 7")
        == nexts("0 3 * * sun")
        == ["Sun 07 03:00", "Sun 14 03:00", "Sun 21 03:00"]
    )
    assert nexts("0 3 * * 1-5/2") == ["Mon 01 03:00", "Wed 03 03:00", "Fri 05 03:00"]
    assert nexts("0 3 * * */3") == ["Wed 03 03:00", "Sat 06 03:00", "Sun 07 03:00"]


def test_a_repeated_time_is_due_once_and_a_skipped_time_is_due_an_hour_later() -> None:
    def count(cron: str, day: datetime) -> int:
        trigger = CronTrigger(kind="cron", cron=cron, timezone="Europe/Berlin")
        found, end = next_time(trigger, 0.0, day.timestamp()), day.timestamp() + 24 * HOUR
        times = 0
        while found is not None and found < end:
            times, found = times + 1, next_time(trigger, 0.0, found)
        return times

    forward, back = datetime(2026, 3, 28, 20, tzinfo=UTC), datetime(2026, 10, 24, 20, tzinfo=UTC)
    assert count("30 2 * * *", forward) == count("30 2 * * *", back) == 1
    assert count("30 * * * *", forward) == count("30 * * * *", back) == 24


@pytest.mark.parametrize(
    ("cron", "zone"),
    [
        ("0 3 * *", "UTC"),
        ("0 25 * * *", "UTC"),
        ("x", "UTC"),
        ("0 0 30 2 *", "UTC"),
        ("0 3 * * 5-1", "UTC"),
        ("0 3 * * *", "Europe"),
        ("0 3 * * *", "Nowhere/Land"),
    ],
)
def test_a_trigger_that_can_never_be_due_is_refused(cron: str, zone: str) -> None:
    with pytest.raises(ValueError, match=r"cron|zone"):
        check_trigger(CronTrigger(kind="cron", cron=cron, timezone=zone))


def test_a_trigger_describes_when_it_starts_a_run() -> None:
    assert describe(CronTrigger(kind="cron", cron="0 3 * * *", timezone="Asia/Tokyo")) == "cron 0 3 * * * Asia/Tokyo"
    assert describe(IntervalTrigger(kind="interval", every_s=90)) == "every 90 s"


# -------------------------------------------------------------------------------------------------------- starts


async def test_an_interval_starts_a_run_each_time_and_one_run_for_all_missed_times(serve: Serve) -> None:
    server = serve(triggers={"t": IntervalTrigger(kind="interval", every_s=HOUR)})
    await server.begin()
    assert await server.check(HOUR - 1) == []
    first = ("queued", "t: every 3600 s")
    assert await server.check(1) == [first]
    assert await server.check(3 * HOUR) == [first], "an unfinished run must not be joined"
    assert "to end" in await server.waits_for()
    await server.finish()
    assert len(await server.check()) == 2, "the missed times start a run"
    await server.finish()
    assert len(await server.check(HOUR - 1)) == 2, "and only one"
    assert len(await server.check(1)) == 3


async def test_triggers_missed_while_no_server_ran_start_one_run(serve: Serve) -> None:
    settings = {"triggers": {"t": CronTrigger(kind="cron", cron="0 3 * * *")}}
    first = serve(**settings)
    await first.begin()
    assert await first.check() == []
    again = serve(**settings)
    again.clock.now += 50 * HOUR
    await again.begin()
    assert await again.check() == [("queued", "t: cron 0 3 * * * UTC")]
    view = (await again.schedule.view()).triggers[0]
    assert view.fired_why == "cron 0 3 * * * UTC, waited 169200 s" and utc(view.next_at) == "Wed 03 03:00"
    await again.finish()
    assert len(await again.check()) == 1


async def test_a_changed_trigger_restarts_its_count_and_a_removed_one_is_deleted(serve: Serve) -> None:
    await serve(
        triggers={"t": IntervalTrigger(kind="interval", every_s=60), "u": IdleTrigger(kind="idle", minutes=1)}
    ).begin()
    server = serve(triggers={"t": IntervalTrigger(kind="interval", every_s=HOUR)})
    server.clock.now += 90
    await server.begin()
    assert await server.check() == []
    assert [(t.name, t.next_at) for t in (await server.schedule.view()).triggers] == [("t", server.clock() + HOUR)]


async def test_two_servers_on_one_database_start_one_run_and_execute_one_at_a_time(serve: Serve) -> None:
    settings = {
        "triggers": {
            "t": IntervalTrigger(kind="interval", every_s=HOUR),
            "u": CronTrigger(kind="cron", cron="0 * * * *"),
        }
    }
    servers = serve(**settings), serve(**settings)
    for server in servers:
        await server.begin()
    for hour in range(1, 4):
        servers[0].clock.now += HOUR
        for server in servers:
            await server.schedule.check()
        assert len(await servers[0].runs.views()) == hour
        claimed = [await server.runs.claim(RunClaim(learner=f"learner {n}")) for n, server in enumerate(servers)]
        assert [run is None for run in claimed] == [False, True]
        assert await servers[1].runs.due("learner 1") is None
        servers[0].clock.now += 61  # The first server dies with its learner.
        taken = await servers[1].claim("learner 1")
        assert claimed[0] is not None and taken.id == claimed[0].id
        await servers[1].runs.end(taken.id, RunEnd(learner="learner 1", state="done", reason="tested"))
    assert {t.fired_run for t in (await servers[1].schedule.view()).triggers} == {taken.id}, (
        "both triggers started the same run"
    )


async def test_triggers_of_different_runs_start_them_one_after_the_other(serve: Serve) -> None:
    server = serve(
        triggers={
            "a": IntervalTrigger(kind="interval", every_s=60),
            "b": IntervalTrigger(kind="interval", every_s=60, run=RunConfig(steps=7)),
            "c": IntervalTrigger(kind="interval", every_s=60),
        }
    )
    await server.begin()
    assert await server.check(60) == [("queued", "a: every 60 s (+1)")]
    await server.finish()
    assert (await server.check())[1] == ("queued", "b: every 60 s")
    assert (await server.runs.views())[0].config.steps == 7


async def test_newly_scored_episodes_are_counted_once(serve: Serve) -> None:
    server = serve(triggers={"t": EpisodesTrigger(kind="episodes", count=3)})
    await server.begin()
    clock = server.clock
    live = [episode(clock) for _ in range(3)]
    played = episode(clock, "terminated", environment="textcraft")
    step = StepRow(
        episode_id=played.id,
        index=0,
        action="",
        observation="",
        reward=1.0,
        terminated=True,
        truncated=False,
        info={},
        created_at=clock(),
    )
    others = [
        episode(clock, "open"),
        episode(clock, "error"),
        episode(clock, trainable=False),
        episode(clock, environment="textcraft"),
        episode(clock, purpose="evaluation"),
    ]
    await server.write(*live, played, *others, *(turn(each, clock) for each in (*live, played, *others)))
    await server.write(step, reward(live[0], clock), *(reward(other, clock) for other in others))
    assert await server.check(5) == [] and await server.waits_for() == "2 of 3 newly scored episodes"
    await server.write(reward(live[1], clock))
    assert await server.check(5) == [("queued", "t: 3 newly scored episodes")]
    await server.finish()
    clock.now += 1
    await server.write(reward(live[0], clock), reward(live[2], clock))
    assert len(await server.check(5)) == 1
    assert await server.waits_for() == "1 of 3 newly scored episodes", "a second reward makes no episode new"


async def test_episodes_that_a_run_has_used_are_not_new(serve: Serve) -> None:
    server = serve(triggers={"t": EpisodesTrigger(kind="episodes", count=1)})
    await server.begin()
    had, now = episode(server.clock), server.clock()
    run = RunRow(id="run_1", state="done", trigger="x", config=RUN.model_dump(mode="json"), step=1, created_at=now)
    batch = BatchRow(id="batch_1", run_id=run.id, step=0, horizon=9, state="trained", stats={}, created_at=now)
    await server.write(had, run)
    await server.write(batch)
    used = RunEpisodeRow(run_id=run.id, episode_id=had.id, batch_id=batch.id, weight=7.0)
    await server.write(reward(had, server.clock), turn(had, server.clock), used)
    assert len(await server.check(5)) == 1
    await server.writer.write(lambda session: session.execute(sa.update(RunRow).values(state="failed")))
    assert len(await server.check(5)) == 2, "a run that failed has used nothing"


async def test_a_trigger_whose_episodes_another_run_uses_while_it_waits_is_no_longer_due(serve: Serve) -> None:
    server = serve(triggers={"t": EpisodesTrigger(kind="episodes", count=1)}, windows=["06:00-08:00 UTC"])
    await server.begin()
    had = episode(server.clock)
    await server.write(had)
    await server.write(turn(had, server.clock), reward(had, server.clock))
    assert await server.check(5) == [] and await server.waits_for() == "the window to open"
    now = server.clock()
    run = RunRow(id="run_1", state="done", trigger="x", config=RUN.model_dump(mode="json"), step=1, created_at=now)
    batch = BatchRow(id="batch_1", run_id=run.id, step=0, horizon=9, state="trained", stats={}, created_at=now)
    await server.write(run)
    await server.write(batch)
    await server.write(RunEpisodeRow(run_id=run.id, episode_id=had.id, batch_id=batch.id, weight=7.0))
    assert len(await server.check(6 * HOUR)) == 1
    assert await server.waits_for() == "0 of 1 newly scored episodes"


async def test_an_idle_trigger_starts_once_for_each_pause(serve: Serve) -> None:
    server = serve(triggers={"t": IdleTrigger(kind="idle", minutes=10)})
    await server.begin()
    live = episode(server.clock, "open")
    await server.write(live)
    assert await server.check(300) == []
    await server.write(turn(live, server.clock))
    assert await server.check(599) == [] and await server.waits_for() == "no live turn for 600 s; now 599 s"
    assert await server.check(1) == [("queued", "t: no live turn for 10 min")]
    await server.finish()
    assert len(await server.check(HOUR)) == 1 and "next live turn" in await server.waits_for()
    await server.write(turn(live, server.clock, 1))
    assert len(await server.check(600)) == 2


# ------------------------------------------------------------------------------------------------------- windows


async def test_outside_its_window_a_trigger_waits_and_starts_one_run_when_it_opens(serve: Serve) -> None:
    server = serve(triggers={"t": IntervalTrigger(kind="interval", every_s=HOUR)}, windows=["06:00-08:00 UTC"])
    await server.begin()
    for _ in range(5):
        assert await server.check(HOUR) == []
    assert await server.waits_for() == "the window to open"
    view = await server.schedule.view()
    assert (view.window_open, utc(view.window_opens_at), view.triggers[0].due_since) == (
        False,
        "Mon 01 06:00",
        MIDNIGHT + HOUR,
    )
    assert await server.schedule.check() == 60.0
    assert await server.check(HOUR) == [("queued", "t: every 3600 s")]
    await server.finish()
    assert len(await server.check()) == 1


async def test_an_idle_period_that_ends_before_the_window_opens_starts_nothing(serve: Serve) -> None:
    server = serve(triggers={"t": IdleTrigger(kind="idle", minutes=10)}, windows=["06:00-08:00 UTC"])
    await server.begin()
    assert await server.check(6 * HOUR - 60) == []
    live = episode(server.clock, "open")
    await server.write(live)
    await server.write(turn(live, server.clock))
    assert await server.check(60) == []


async def test_a_run_is_paused_when_its_window_closes_and_resumed_in_the_next(serve: Serve) -> None:
    server = serve(
        triggers={"t": CronTrigger(kind="cron", cron="0 1 * * *")},
        windows=["01:00-02:00 UTC"],
        pause_outside_windows=True,
    )
    await server.begin()
    await server.check(HOUR)
    run = await server.claim()
    assert (await server.check(HOUR - 1))[0][0] == "running"
    assert (await server.check(1))[0][0] == "paused" and (await server.runs.view(run.id)).reason == WINDOW_CLOSED
    with pytest.raises(Conflict) as lost:
        await server.runs.heartbeat(run.id, "learner")
    assert lost.value.code == "lease_lost"
    assert (await server.check(22 * HOUR))[0][0] == "paused"
    assert (await server.check(HOUR))[0][0] == "queued"
    assert (await server.claim()).id == run.id
    assert len(await server.check()) == 1, "the trigger waits for it"


async def test_without_pausing_a_run_continues_outside_its_window_and_a_requested_run_needs_none(serve: Serve) -> None:
    server = serve(windows=["01:00-02:00 UTC"])
    await server.begin()
    await server.schedule.request(RUN, "request")
    await server.claim()
    assert await server.check(3 * HOUR) == [("running", "request")]


# ------------------------------------------------------------------------------------- pause, resume and budget


async def test_a_paused_run_lets_another_run_start_and_continues_at_its_step(serve: Serve) -> None:
    server = serve()
    first = await server.schedule.request(RUN, "first")
    await server.claim()
    assert (await server.runs.pause(first.id)).reason == "paused by request"
    assert await server.runs.due("learner") is None
    await server.schedule.request(RUN, "second")
    await server.finish()
    assert (await server.schedule.resume(first.id)).state == "queued"
    again = await server.claim("another")
    assert (again.id, again.state, again.first_version, again.reason) == (first.id, "running", 0, None)
    assert (await server.schedule.resume(first.id)).state == "running", "resuming a running run changes nothing"
    assert (await server.runs.cancel(first.id)).state == "cancelled"
    for change in (server.runs.pause, server.schedule.resume):
        with pytest.raises(Conflict):
            await change(first.id)
        with pytest.raises(NotFound):
            await change("run_none")


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        ({"steps": 2}, "budget: 2 of 2 learner steps are used"),
        ({"minutes": 20}, "budget: 20.0 of 20 minutes are used"),
        ({"tokens": 150}, "budget: 200 of 150 trained tokens are used"),
        ({"steps": 3, "minutes": 21, "tokens": 201}, None),
    ],
)
async def test_a_run_ends_done_when_any_part_of_its_budget_is_used_up(
    serve: Serve, budget: dict[str, Any], reason: str | None
) -> None:
    server = serve()
    run = await server.schedule.request(RunConfig.model_validate({"steps": 9, "budget": budget}), "request")
    await server.claim()
    server.clock.now += 600
    await server.runs.pause(run.id)
    server.clock.now += 10 * HOUR  # Pauses do not count.
    await server.runs.resume(run.id)
    await server.claim()
    server.clock.now += 540
    await server.runs.heartbeat(run.id, "learner")
    server.clock.now += 360  # A lost learner counts as running until its lease expired.
    await server.claim("another")

    def step(session: Any) -> None:
        row = session.get_one(RunRow, run.id)
        for number in range(2):
            row.step = number + 1
            session.add(
                MetricRow(run_id=run.id, step=number, name="trained_tokens", value=100.0, created_at=server.clock())
            )
        end_if_spent(session, row, server.clock())

    await server.writer.write(step)
    ended = await server.runs.view(run.id)
    assert (ended.state, ended.reason) == (("running", None) if reason is None else ("done", reason))


# ---------------------------------------------------------------------------------------------------- by request


async def test_triggers_set_through_the_api_are_kept_and_triggers_in_the_settings_are_protected(serve: Serve) -> None:
    settings = {"triggers": {"mine": IntervalTrigger(kind="interval", every_s=60)}}
    server = serve(**settings)
    await server.begin()
    made = await server.schedule.add(TriggerCreate(name="theirs", trigger=IdleTrigger(kind="idle", minutes=5)))
    assert (made.source, made.waits_for) == ("api", "no live turn for 300 s; now 0 s")
    with pytest.raises(Conflict):
        await server.schedule.add(TriggerCreate(name="mine", trigger=IdleTrigger(kind="idle", minutes=5)))
    with pytest.raises(BadRequest):
        await server.schedule.add(TriggerCreate(name="never", trigger=CronTrigger(kind="cron", cron="0 0 30 2 *")))
    with pytest.raises(BadRequest, match="full weights"):
        await server.schedule.add(
            TriggerCreate(
                name="other", trigger=IdleTrigger(kind="idle", minutes=5, run=RunConfig(steps=1, kind="adapter"))
            )
        )
    again = serve(**settings)
    await again.begin()
    assert [t.name for t in (await again.schedule.view()).triggers] == ["mine", "theirs"]
    with pytest.raises(Conflict):
        await again.schedule.remove("mine")
    await again.schedule.remove("theirs")
    with pytest.raises(NotFound):
        await again.schedule.remove("theirs")


async def test_a_trigger_without_any_run_is_refused(serve: Serve) -> None:
    with pytest.raises(BadRequest, match=r"schedule\.run"):
        await serve(run=None).schedule.add(TriggerCreate(name="t", trigger=IdleTrigger(kind="idle", minutes=5)))


@pytest.mark.parametrize(
    ("least", "wait", "most"), [(0.0, 3600.0, 1), (3600.0, 0.0, 1), (0.0, 0.0, None)], ids=["wait", "pause", "neither"]
)
async def test_the_schedule_is_checked_when_something_may_be_due_but_not_without_a_pause(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, least: float, wait: float, most: int | None
) -> None:
    schedule, checks = serve().schedule, list[float]()

    async def check() -> float:
        checks.append(wait)
        return wait

    async def others() -> None:
        for _ in range(50):
            await asyncio.sleep(0)

    monkeypatch.setattr("server.training.scheduling.schedule.MIN_PAUSE_S", least)
    monkeypatch.setattr("server.training.scheduling.schedule.pause_after", lambda _: 0.0)
    monkeypatch.setattr(schedule, "check", check)
    await schedule.start()
    await others()
    assert len(checks) == 1 if most else len(checks) > 3
    before = len(checks)
    schedule.wake()
    await others()
    assert len(checks) == before + 1 if most else len(checks) > before
    await schedule.close()


async def test_a_clock_that_jumps_ends_a_pause_and_one_that_is_set_back_prolongs_none(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(triggers={"t": IntervalTrigger(kind="interval", every_s=HOUR)})
    monkeypatch.setattr("server.training.scheduling.schedule.CLOCK_S", 0.0)
    await server.schedule.start()
    while (await server.schedule.view()).triggers == []:
        await asyncio.sleep(0)
    server.clock.now += HOUR
    while not (runs := await server.runs.views()):
        await asyncio.sleep(0)
    assert [run.created_at for run in runs] == [MIDNIGHT + HOUR]
    await server.schedule.close()
    server.clock.now -= HOUR
    await server.schedule._wait(0.01, MIDNIGHT + HOUR)


async def test_a_check_says_how_long_nothing_can_become_due(serve: Serve) -> None:
    server = serve(triggers={"t": IntervalTrigger(kind="interval", every_s=HOUR)})
    await server.begin()
    assert await server.schedule.check() == MAX_PAUSE_S
    server.clock.now += HOUR - 12.5
    assert await server.schedule.check() == 12.5
    server.clock.now += 12.375
    assert await server.schedule.check() == 0.125
    server.clock.now += HOUR
    assert await server.schedule.check() >= 0.0


async def test_a_schedule_without_times_is_checked_after_the_longest_pause(serve: Serve) -> None:
    assert await serve().schedule.check() == MAX_PAUSE_S
