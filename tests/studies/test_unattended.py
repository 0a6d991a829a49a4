"""An unattended night: three scheduled runs with a real engine and the real learner; a worse version never stays."""

from __future__ import annotations

import sqlite3
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from server.engines.settings import EngineSettings
from server.environments.settings import EnvironmentSettings
from server.training.scheduling.settings import ScheduleSettings
from server.training.settings import LearnerSettings, WatchSettings
from tests.support.environments.first_byte import make_spec
from tests.support.live import Live, serving, settings_for, until
from tests.support.tiny_model import make_tiny_model
from upturn.wire import (
    CronTrigger,
    EpisodeOpen,
    EvaluationPlan,
    FixedHorizon,
    OptimizerConfig,
    PlayPlan,
    RewardRequest,
    RunConfig,
    RunView,
    Sampling,
)

SHORT = Sampling(max_tokens=2)
NIGHT = (datetime.now(UTC) + timedelta(days=2)).replace(hour=0, minute=0, second=0, microsecond=0)
PLAN = EvaluationPlan(tasks={"first-byte": make_spec().tasks("test")}, repetitions=4, sampling=SHORT)


def run_of(steps: int, lr: float, environment: str = "first-byte") -> RunConfig:
    return RunConfig(
        steps=steps,
        kind="adapter",
        evaluation=PLAN,
        schedule=FixedHorizon(horizon=1),
        checkpoint_every=4,
        optimizer=OptimizerConfig(lr=lr),
        play=PlayPlan(
            environment=environment, tasks=make_spec().tasks("train"), groups=8, group_size=8, sampling=SHORT
        ),
    )


RUNS = {"one": run_of(2, lr=4e-3), "two": run_of(4, lr=1e-2, environment="other-byte"), "three": run_of(8, lr=1e-2)}
"""The second one is sabotage: it trains the opposite of what the gate evaluates."""


def run_of_hour(live: Live, hour: int) -> RunView:
    """Let the clock of the schedule come to an hour, and wait until its run is decided."""
    before = len(live.client.runs().data)
    jumped = NIGHT.timestamp() + hour * 3600 + 1 - time.time()
    live.parts.schedule.clock = lambda: time.time() + jumped
    live.parts.schedule.wake()
    until(lambda: len(live.client.runs().data) > before, f"no run began at {hour}:00", 240)
    run_id = live.client.runs().data[0].id
    until(lambda: live.client.run(run_id).gate != "due", f"the run of {hour}:00 was not decided", 240)
    return live.client.run(run_id)


def live_episodes(live: Live, reward: float, count: int) -> set[str]:
    """Let a user get `count` answers, each with the same reward; return the versions that answered."""
    answered = set()
    for _ in range(count):
        opened = live.client.open_episode(EpisodeOpen())
        answer = live.openai(key=opened.key).chat.completions.create(
            model="policy", max_tokens=2, messages=[{"role": "user", "content": "Say a letter."}]
        )
        live.client.reward(opened.id, RewardRequest(value=reward))
        live.client.close_episode(opened.id)
        answered.add(answer.system_fingerprint)
    return answered


@pytest.mark.vllm
def test_better_versions_are_promoted_worse_ones_rejected_and_less_rewarded_ones_rolled_back(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "model")
    chosen = EngineSettings(kind="vllm", dtype="float32", context_tokens=1024, kv_cache_gib=0.3, max_concurrent=32)
    triggers = {
        name: CronTrigger(kind="cron", cron=f"0 {hour} {NIGHT.day} {NIGHT.month} *", run=run)
        for hour, (name, run) in enumerate(RUNS.items(), 1)
    }
    settings = settings_for(
        tmp_path / "data",
        model=str(model),
        engine=chosen,
        weights="adapter",
        learner=LearnerSettings(start=True, threads=1),
        watch=WatchSettings(maturity_h=0.003),
        schedule=ScheduleSettings(triggers=triggers),
        environments=EnvironmentSettings(
            modules=[f"tests.support.environments.{name}" for name in ("first_byte", "other_byte")], workers=0
        ),
    )
    with serving(settings) as live:
        first = run_of_hour(live, 1)
        assert live_episodes(live, 1.0, 40) == {f"policy@{first.last_version}"}
        run_of_hour(live, 2)
        third = run_of_hour(live, 3)
        assert live_episodes(live, 0.0, 40) == {f"policy@{third.last_version}"}
        live.parts.watch.clock = lambda: time.time() + 600  # All of them are mature.
        until(lambda: live.parts.serving.pointers.champion == first.last_version, "not rolled back", 60)
        assert live_episodes(live, 0.0, 1) == {f"policy@{first.last_version}"}
    with sqlite3.connect(tmp_path / "data" / "upturn.db") as record:
        read = lambda query: record.execute(query).fetchall()  # noqa: E731
        assert read("select state, gate, substr(trigger, 1, instr(trigger, ':') - 1) from run order by id") == [
            ("done", "promoted", "one"),
            ("done", "rejected", "two"),
            ("done", "promoted", "three"),
        ]
        one, two, three = (version for (version,) in read("select last_version from run order by id"))
        assert read("select action, decided_by, from_version, to_version from promotion order by id") == [
            ("first", "swap", None, 0),
            ("promote", "gate", 0, one),
            ("reject", "gate", two, one),
            ("promote", "gate", one, three),
            ("rollback", "watch", three, one),
        ]
        assert read("select first_version from run order by id") == [(0,), (one,), (one,)], "began from a worse one"
        (reason,) = read("select reason from promotion where action = 'rollback'")[0]
        assert "reward" in reason
        asked = read("select policy_version, count(*) from episode where play_id is null group by 1 order by 1")
        assert [version for version, _ in asked] == [one, three]
    record.close()
