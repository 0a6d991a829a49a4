"""The straight line with real weights and the real learner process: the trained weights are served."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import psutil
import pytest

from env_adapters import environment_spec
from tests.support.runs.learned import ASK, record_group, serve_tiny, wait_for
from tests.support.runs.scripted import FEW_LIVE
from upturn.wire import (
    OptimizerConfig,
    PlayPlan,
    PlayRequest,
    RunConfig,
    RunRequest,
    Sampling,
)

WAYS = [(engine, kind) for engine in ("local", "vllm") for kind in ("full", "adapter")]
MARKED = [pytest.param(*way, marks=[pytest.mark.vllm] if way[0] == "vllm" else []) for way in WAYS]


@pytest.mark.parametrize(("engine", "kind"), MARKED)
def test_a_chat_is_trained_on_and_the_next_answer_comes_from_version_1(tmp_path: Path, engine: str, kind: str) -> None:
    with serve_tiny(tmp_path, engine, kind) as live:
        record_group(live)
        run = live.client.create_run(
            RunRequest(
                config=RunConfig(
                    steps=1, kind=kind, live=FEW_LIVE, optimizer=OptimizerConfig(lr=1e-3), checkpoint_every=1
                )
            )
        )
        ended = wait_for(live, run.id)
        assert ended.state == "done", ended.reason
        assert ended.last_version == 1
        policy = live.client.policies().data[0]
        assert (policy.version, policy.kind, policy.head, policy.loaded) == (1, kind, True, True)
        assert policy.champion == (kind == "full"), (
            "a single engine of full weights serves each version to live traffic at once"
        )
        assert policy.check_mean is not None and policy.check_mean < 2e-3
        answer = live.openai().chat.completions.create(model="policy@head", messages=ASK, max_tokens=4)
        assert answer.system_fingerprint == "policy@1"
        if kind == "adapter":
            before = live.openai().chat.completions.create(model="policy", messages=ASK, max_tokens=4)
            assert before.system_fingerprint == "policy@0", "live traffic waits for a promotion"
        assert ended.steps[0].metrics["mismatch_kl"] < 1e-3, "the learner's logprobs differ from the engine's"
        with sqlite3.connect(tmp_path / "data" / "upturn.db") as connection:
            rows = connection.execute("select advantage, weight from run_episode").fetchall()
        connection.close()
        assert len(rows) == 3 and all(weight > 0 for _, weight in rows)
        assert sum(advantage for advantage, _ in rows) == pytest.approx(0, abs=1e-4)


def test_an_oracle_run_records_episodes_and_publishes_versions(tmp_path: Path) -> None:
    tasks = [t for t in environment_spec("textcraft").tasks("train") if t.startswith("1/")][:4]
    with serve_tiny(tmp_path, "local") as live:
        run = live.client.create_run(
            RunRequest(
                config=RunConfig(
                    algorithm="sft",
                    steps=2,
                    optimizer=OptimizerConfig(lr=1e-3),
                    play=PlayPlan(environment="textcraft", tasks=tasks, groups=2, group_size=1, agent="oracle"),
                )
            )
        )
        ended = wait_for(live, run.id)
        assert ended.state == "done", ended.reason
        assert ended.last_version == 2
        assert ended.steps[1].metrics["success_rate"] == 1.0
        episode = live.client.episode(_episodes(tmp_path)[0])
        assert episode.status == "terminated" and episode.turns[0].policy_version is None
        assert episode.turns[0].answer["content"] == episode.steps[0].action


def test_a_killed_learner_is_restarted_and_its_run_continues(tmp_path: Path) -> None:
    tasks = [t for t in environment_spec("textcraft").tasks("train") if t.startswith("1/")][:4]
    with serve_tiny(tmp_path, "local", nice=5) as live:
        run = live.client.create_run(
            RunRequest(
                config=RunConfig(
                    algorithm="sft",
                    steps=4,
                    optimizer=OptimizerConfig(lr=1e-3),
                    checkpoint_every=1,
                    play=PlayPlan(environment="textcraft", tasks=tasks, groups=2, group_size=1, agent="oracle"),
                )
            )
        )
        killed = None
        while killed is None:
            assert live.client.run(run.id).state in ("queued", "running")
            if live.client.run(run.id).step >= 1:
                learners = [
                    p
                    for p in psutil.Process().children(recursive=True)
                    if "learner" in p.cmdline() and "-I" not in p.cmdline()
                ]
                killed = learners[0]
                assert killed.nice() == 5
                killed.kill()
            time.sleep(0.05)
        ended = wait_for(live, run.id)
        assert ended.state == "done", ended.reason
        assert [s.step for s in ended.steps] == [0, 1, 2, 3]
        assert "continues" in (tmp_path / "data" / "logs" / f"learner-{run.id}.log").read_text()


def test_a_play_is_cut_at_its_horizon_and_counted_as_truncated(tmp_path: Path) -> None:
    tasks = [t for t in environment_spec("textcraft").tasks("test") if t.startswith("1/")][:2]
    with serve_tiny(tmp_path, "local") as live:
        play = live.client.start_play(
            PlayRequest(
                environment="textcraft",
                tasks=tasks,
                group_size=2,
                horizon=2,
                sampling=Sampling(max_tokens=4),
                purpose="evaluation",
            )
        )
        done = live.client.wait_for_play(play.id)
        assert (done.state, done.finished, done.errors) == ("done", 4, 0)
        assert {r.status for r in done.results} == {"truncated"}
        assert {r.turns for r in done.results} == {2}
        assert done.success_rate == 0.0


def _episodes(directory: Path) -> list[str]:
    with sqlite3.connect(directory / "data" / "upturn.db") as connection:
        found = [row[0] for row in connection.execute("select id from episode order by id")]
    connection.close()
    return found
