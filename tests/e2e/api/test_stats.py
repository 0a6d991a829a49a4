"""Figures over time, the steps of a run, and the state of the server at a glance."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from server.memory import resident_bytes
from server.metrics import Metrics
from server.store.tables import EpisodeRow, TurnRow
from tests.support.live import Live, in_process, script, settings_for, until
from tests.support.runs.gated import ENVIRONMENT, begin, end, publish, served, trained
from tests.support.runs.scripted import LEARNER, claim, lease, reward_two
from upturn.command.app import build
from upturn.command.run import run
from upturn.wire import BatchAck, CronTrigger, RunConfig

HOUR = 3600


def test_series_count_what_was_opened_said_and_earned(live: Live) -> None:
    good, bad = reward_two(live)
    live.openai().chat.completions.create(model="policy", messages=[{"role": "user", "content": "Hi"}], temperature=0)
    now = time.time()

    def earlier(session: sa.orm.Session) -> None:  # One of them was opened, and took its turn, two hours ago.
        session.execute(sa.update(EpisodeRow).where(EpisodeRow.id == bad).values(opened_at=now - 2 * HOUR))
        session.execute(sa.update(TurnRow).where(TurnRow.episode_id == bad).values(created_at=now - 2 * HOUR))

    live.parts.writer.submit(earlier).result()
    asyncio.run_coroutine_threadsafe(live.parts.index.fresh(), live.loop).result(timeout=60)
    view = live.client.stats(now - 3 * HOUR, now + HOUR, HOUR)
    assert view.at == [view.opened_from + HOUR * n for n in range(len(view.at))] and view.bucket_s == HOUR
    assert (sum(view.episodes), sum(view.live), sum(view.turns), sum(view.errors)) == (3, 3, 3, 0)
    assert [reward for reward in view.mean_reward if reward is not None] == [0.0, 1.0]
    assert {reason: sum(counts) for reason, counts in view.untrainable.items()} == {"greedy": 1}
    assert sum(view.completion_tokens) > 0 < sum(view.prompt_tokens)
    assert view.environments["live"].episodes == view.versions["0"].episodes == view.episodes
    assert view.open[-1] == 1, "one of three is open"
    listed = {e.id: e for e in live.client.episodes().data}
    assert sum(view.completion_tokens) == sum(e.completion_tokens for e in listed.values()) and good in listed


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"from": 10, "to": 10}, "to"),
        ({"bucket": 301}, "bucket"),
        ({"bucket": 0}, "bucket"),
        ({"from": 0, "bucket": 300}, "bucket"),
        ({"from": "x"}, "from"),
        ({"from": -1}, "from"),
        ({"to": "inf"}, "to"),
    ],
)
def test_a_wrong_period_is_refused(live: Live, asked: dict[str, Any], param: str) -> None:
    answer = live.http.get("/v1/stats", params=asked)
    assert answer.status_code in (400, 422) and param in answer.text


def test_a_period_of_years_has_few_buckets_by_itself(live: Live) -> None:
    view = live.client.stats(0)
    assert len(view.at) <= 1000 and sum(view.episodes) == 0


def test_steps_show_what_each_played_and_what_became_of_its_version(tmp_path: Path) -> None:
    with served(tmp_path) as live:
        run = trained(live, "win")
        found = live.client.steps(run.id)
        (step,) = found.data
        assert (found.total, found.first_step, found.last_version, found.state) == (1, 0, 1, "done")
        assert (step.step, step.global_step, step.horizon, step.policy_version) == (0, 0, 2, 1)
        assert (step.entropy, step.loss) == (0.5, None) and step.metrics["entropy"] == 0.5
        assert "promote" in [one.action for one in step.decisions]
        assert live.client.steps(run.id, first=1).data == []
        assert ENVIRONMENT not in step.environments, "the run took live episodes only"
        worse = trained(live, "add 1")
        assert "reject" in [one.action for one in live.client.steps(worse.id).data[0].decisions]
        assert live.http.get("/v1/runs/run_none/steps").status_code == 404


def test_a_step_without_anything_to_learn_says_so(live: Live) -> None:
    reward_two(live, rewards=(1.0, 1.0))
    run_id = claim(live, steps=1)
    batch = lease(live, run_id)
    live.client.acknowledge_batch(
        batch.id, BatchAck(learner=LEARNER, state="trained", metrics={"skipped": 1.0, "trained_tokens": 0.0})
    )
    (step,) = live.client.steps(run_id).data
    assert step.nothing_to_learn and (step.policy_version, step.trained_episodes) == (None, 0)


def test_the_command_lists_by_what_the_index_finds(live: Live, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = reward_two(live)
    until(lambda: live.client.episodes(reward_from=-1.0).missing == 0, "nothing is in the index")
    for flags, expected in (
        (["--reward-from", "0.5", "--of-version", "0", "--live"], [good]),
        (["--reward-to", "0.5", "--text", "hi"], [bad]),
        (["--success"], []),
        (["--untrainable", "any", "--task", "none", "--run", "none", "--step", "0", "--play", "none"], []),
    ):
        assert run(build(), ["episodes", "list", "--json", "--server", live.url, *flags], "upturn") == 0
        assert [one["id"] for one in json.loads(capsys.readouterr().out)["data"]] == expected, flags


def test_erased_episodes_leave_the_counts_of_their_step(live: Live) -> None:
    good, bad = reward_two(live)
    run_id = claim(live, steps=1)
    batch = lease(live, run_id)
    live.client.acknowledge_batch(batch.id, BatchAck(learner=LEARNER, state="trained", metrics={"success_rate": 0.5}))
    for erased, left in ((None, 2), (good, 1), (bad, 0)):
        if erased is not None:
            live.client.erase_episode(erased)
        (step,) = live.client.steps(run_id).data
        assert (step.trained_episodes, step.success_rate) == (left, 0.5)
        assert (step.fork_share, list(step.environments)) == ((0.0, ["live"]) if left else (None, []))


def test_the_status_says_what_the_server_does(tmp_path: Path) -> None:
    with served(tmp_path) as live:
        idle = live.client.status()
        assert idle.ready and idle.problems == [] and idle.summary == "all is well"
        assert (idle.training, idle.undecided_run, idle.next_run) == (None, None, None)
        assert [(one.version, one.episodes) for one in idle.trend] == [(0, 0)]
        assert idle.open_episodes == 0 and {one.name for one in idle.memory} >= {"server"}
        nightly = CronTrigger(kind="cron", cron="0 3 * * *", run=RunConfig(steps=1))
        at = live.client.add_trigger("nightly", nightly).next_at
        planned = live.client.status().next_run
        assert planned is not None and (planned.trigger, planned.at) == ("nightly", at)
        run = begin(live.client, campaign="nights")
        busy = live.client.status()
        assert busy.training is not None and busy.training.run_id == run.id
        assert (busy.training.campaign, busy.training.night, busy.training.doing) == ("nights", 1, "trains")
        publish(live.client, live.parts.settings.data_dir, run, "win")
        end(live.client, run, "failed")
        failed = live.client.status()
        assert failed.training is None and [problem.part for problem in failed.problems] == ["run"]
        assert run.id in failed.summary and failed.ready


def test_the_status_names_the_problem_of_turns_that_nobody_can_train_on(live: Live) -> None:
    for _ in range(20):
        live.openai().chat.completions.create(
            model="policy", messages=[{"role": "user", "content": "Hi"}], temperature=0
        )
    shown = live.client.status()
    assert [problem.part for problem in shown.problems] == ["training"] and "greedy" in shown.summary
    assert shown.turns_per_s > 0 < shown.completion_tokens_per_s
    assert shown.open_episodes == 20


def test_rates_are_of_the_last_minute() -> None:
    now = [1000.0]
    metrics = Metrics(lambda: now[0])

    class Turn:
        untrainable_reason, forked, prompt_tokens, completion_tokens, duration_ms = None, False, 30, 6, 1.0

    for now[0] in (1000.0, 1000.5, 1030.0):
        metrics.turn(Turn())
    assert (metrics.rates().turns, metrics.rates().completion_tokens) == (3 / 60, 18 / 60)
    now[0] = 1060.5
    assert metrics.rates().turns == 1 / 60
    now[0] = 2000.0
    assert metrics.rates().turns == 0


async def test_a_learner_key_reads_the_figures_and_an_agent_key_does_not(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "data", model=str(script(tmp_path / "script", "Yes.")), keys="required")
    async with in_process(settings) as server:
        for scope, expected in (("learner", 200), ("agent", 403)):
            key = server.parts.callers.own_key(scope, scope)  # type: ignore[arg-type]
            for path in ("/v1/stats", "/v1/status"):
                assert (await server.caller(key).http.get(path)).status_code == expected


def test_memory_is_that_of_a_process_and_those_it_started() -> None:
    held = resident_bytes()
    if held:  # Linux.
        assert 10_000_000 < held["server"] < 100_000_000_000
        assert resident_bytes(2**30) == {"server": 0}
