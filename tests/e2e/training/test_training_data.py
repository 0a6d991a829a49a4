"""A run's batches contain what its config declares: environments, tasks, live episodes."""

from __future__ import annotations

import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from env_adapters import family
from tests.e2e.training.test_gate import ENVIRONMENT, served
from tests.e2e.training.test_loop_scripted import ASK, LEARNER
from tests.support.live import Live, until
from upturn.client import UpturnAPIError
from upturn.wire import BatchAck, BatchRequest, BatchView, EpisodeOpen, RewardRequest, RunClaim, RunConfig, RunRequest

BOTH = {
    "environments": {ENVIRONMENT: {"split": "train", "weight": 2}, "textcraft": {"split": "test"}},
    "groups": 3,
    "group_size": 2,
}


def begin(server: Live, **fields: Any) -> str:
    """Queue and claim a run."""
    config = RunConfig.model_validate({"steps": 3, "algorithm": "reinforce_pp", "seed": 3, **fields})
    run = server.client.create_run(RunRequest(config=config))
    assert server.client.claim_run(RunClaim(learner=LEARNER)) is not None
    return run.id


def lease(live: Live, run_id: str, step: int = 0) -> BatchView:
    """Lease a step's batch as a learner does: repeatedly, until its play has ended."""
    while True:
        batch = live.client.lease_batch(BatchRequest(run_id=run_id, learner=LEARNER, step=step, horizon=2))
        if batch.state == "leased":
            return batch


def rewarded(live: Live, source: str) -> str:
    opened = live.client.open_episode(EpisodeOpen())
    live.openai(key=opened.key).chat.completions.create(model="policy", messages=ASK)
    live.client.reward(opened.id, RewardRequest(value=1.0, source=source))
    live.client.close_episode(opened.id)
    return opened.id


def test_a_batch_mixes_environments_by_weight_and_live_episodes_up_to_their_share(tmp_path: Path) -> None:
    with served(tmp_path, base="win") as live:
        users = [rewarded(live, "user") for _ in range(4)]
        rewarded(live, "elsewhere")
        run_id = begin(live, play=BOTH, live={"sources": ["user"], "share": 0.4})
        batch = lease(live, run_id)
        assert batch.play is not None and batch.play.environment == f"{ENVIRONMENT}+textcraft"
        assert (batch.play.episodes, batch.play.finished, batch.play.errors) == (6, 6, 0)
        assert (batch.played_episodes, batch.live_episodes) == (6, 4)
        assert batch.by_environment == {ENVIRONMENT: 4, "textcraft": 2}
        episodes = [live.client.episode(i) for i in {s.episode_id for s in batch.samples}]
        assert sorted(e.id for e in episodes if e.play_id is None) == sorted(users)
        played = [e for e in episodes if e.play_id is not None]
        assert list(Counter(e.group for e in played).values()) == [2, 2, 2]
        assert {e.task for e in played if e.environment == "textcraft"} <= set(family("textcraft").tasks("test"))
        live.client.acknowledge_batch(batch.id, BatchAck(learner=LEARNER, state="trained"))
        metrics = live.client.run(run_id).steps[0].metrics
        assert (metrics["played_episodes"], metrics["live_episodes"], metrics["episodes:textcraft"]) == (6, 4, 2)
        assert lease(live, run_id, 1).live_episodes == 0, "live episodes were taken twice"


def test_learnability_prefers_new_tasks_to_solved_ones_and_a_leased_batch_stays_the_same(tmp_path: Path) -> None:
    tasks = [f"train/{n}" for n in range(8)]
    plan = {"environment": ENVIRONMENT, "tasks": tasks, "curriculum": "learnability", "groups": 4, "group_size": 8}
    with served(tmp_path, base="win") as live:
        run_id = begin(live, play=plan)
        first = lease(live, run_id)
        assert lease(live, run_id).samples == first.samples
        live.client.acknowledge_batch(first.id, BatchAck(learner=LEARNER, state="trained"))
        second = lease(live, run_id, 1)

        def played(batch: BatchView) -> set[str | None]:
            return {live.client.episode(s.episode_id).task for s in batch.samples}

        assert len(played(first)) == len(played(second)) == 4
        assert len(played(first) & played(second)) <= 1, "solved tasks came before new ones"


def test_an_unknown_split_is_refused_by_name(tmp_path: Path) -> None:
    with served(tmp_path) as live:
        run_id = begin(live, play={"environment": "textcraft", "split": "dev"})
        with pytest.raises(UpturnAPIError, match="textcraft has no split 'dev', only train, test") as refused:
            lease(live, run_id)
        assert (refused.value.status, refused.value.code) == (404, "split_not_found")


def test_with_overlap_the_next_steps_episodes_are_played_while_the_current_step_trains(tmp_path: Path) -> None:
    plan = {"environment": ENVIRONMENT, "split": "train", "groups": 2, "group_size": 2}
    with served(tmp_path, base="win") as live:
        run_id = begin(live, play=plan, overlap=True)
        first = lease(live, run_id)
        for _ in range(2):
            live.client.prepare_batch(BatchRequest(run_id=run_id, learner=LEARNER, step=1, horizon=2))
        plays = sqlite3.connect(tmp_path / "data" / "upturn.db")
        until(lambda: plays.execute("select state from play").fetchall() == [("done",)] * 2, "nothing is played ahead")
        plays.close()
        live.client.acknowledge_batch(first.id, BatchAck(learner=LEARNER, state="trained"))
        second = lease(live, run_id, 1)
        assert len(second.samples) == 4
        assert not {s.episode_id for s in first.samples} & {s.episode_id for s in second.samples}
