"""The straight line with the scripted engine: chat, batch, publish, swap, and an answer from the next version."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.support.live import Live, script
from tests.support.runs.scripted import ASK, FEW_LIVE, LEARNER, claim, lease, publication, reward_two, says
from upturn.client import UpturnAPIError
from upturn.manifest import write_manifest
from upturn.wire import (
    ALGORITHMS,
    BatchAck,
    BatchRequest,
    EpisodeOpen,
    OptimizerConfig,
    RewardRequest,
    RunClaim,
    RunConfig,
    RunEnd,
    RunRequest,
    TrainedEpisode,
)
from upturn.wire.spelling import AMERICAN, to_british


def test_a_chat_trains_the_next_version_which_then_answers(live: Live) -> None:
    episodes = reward_two(live)
    run_id = claim(live)
    batch = lease(live, run_id)
    assert sorted(s.episode_id for s in batch.samples) == sorted(episodes)
    assert {s.reward for s in batch.samples} == {0.0, 1.0}
    assert all(sum(s.loss_mask) == len("Hello there.") + 1 for s in batch.samples)
    version = live.client.publish(publication(live, run_id, "Better now."))
    assert (version.version, version.champion, version.head, version.loaded) == (1, True, True, True)
    assert version.horizon == 5
    live.client.acknowledge_batch(
        batch.id,
        BatchAck(
            learner=LEARNER,
            state="trained",
            policy_version=1,
            metrics={"loss": 0.5},
            episodes=[TrainedEpisode(episode_id=e, advantage=1.0, weight=13) for e in episodes],
        ),
    )
    assert says(live) == ("Better now.", "policy@1")
    run = live.client.end_run(run_id, RunEnd(learner=LEARNER, state="done", reason="tested"))
    assert (run.state, run.step, run.last_version) == ("done", 1, 1)
    assert run.steps[0].metrics["loss"] == 0.5 and run.steps[0].metrics["groups"] == 1


def test_repeated_requests_return_the_same_batch_which_cannot_be_trained_twice(live: Live) -> None:
    reward_two(live)
    run_id = claim(live)
    batch = lease(live, run_id)
    live.client.acknowledge_batch(batch.id, BatchAck(learner=LEARNER, state="returned"))
    again = lease(live, run_id)
    assert again.id == batch.id and again.samples == batch.samples
    live.client.acknowledge_batch(batch.id, BatchAck(learner=LEARNER, state="trained"))
    with pytest.raises(UpturnAPIError) as refused:
        lease(live, run_id)
    assert refused.value.code == "batch_trained"
    assert lease(live, run_id, step=1).samples == [], "the same live episodes were leased twice"


def test_a_trained_batch_is_returned_again_only_for_replay(live: Live) -> None:
    reward_two(live)
    run_id = claim(live)
    again = BatchRequest(run_id=run_id, learner=LEARNER, step=0, horizon=5, replay=True)
    batch = lease(live, run_id)
    with pytest.raises(UpturnAPIError) as refused:
        live.client.lease_batch(again)
    assert refused.value.code == "batch_not_trained"
    live.client.acknowledge_batch(batch.id, BatchAck(learner=LEARNER, state="trained"))
    assert live.client.lease_batch(again).samples == batch.samples
    assert live.client.run(run_id).step == 1


def test_ungrouped_live_episodes_train_reinforce_pp_and_are_paired_by_prompt_for_dpo(live: Live) -> None:
    for value in (1.0, 0.5, 0.0):
        opened = live.client.open_episode(EpisodeOpen())
        live.openai(key=opened.key).chat.completions.create(model="policy", messages=ASK)
        live.client.reward(opened.id, RewardRequest(value=value))
        live.client.close_episode(opened.id)
    for algorithm, rewards in (("grpo", []), ("reinforce_pp", [0.0, 0.5, 1.0]), ("dpo", [0.0, 1.0])):
        run = live.client.create_run(RunRequest(config=RunConfig(steps=1, algorithm=algorithm, live=FEW_LIVE)))
        live.client.claim_run(RunClaim(learner=LEARNER))
        samples = lease(live, run.id).samples
        assert sorted(s.reward for s in samples) == rewards
        assert len({s.group for s in samples} - {None}) == ALGORITHMS[algorithm].by_prompt
        live.client.end_run(run.id, RunEnd(learner=LEARNER, state="done", reason="tested"))


def test_weights_that_fail_the_check_never_serve(live: Live, tmp_path: Path) -> None:
    run_id = claim(live)
    other = script(tmp_path / "other", "Trained elsewhere.")
    with pytest.raises(UpturnAPIError) as refused:
        live.client.publish(publication(live, run_id, "Mixed up.", probe_from=other))
    assert refused.value.code == "check_failed"
    assert says(live) == ("Hello there.", "policy@0")
    assert live.client.publish(publication(live, run_id, "Right.")).version == 2, "a failed version's number is spent"


def test_turns_of_a_refused_version_are_never_trained_on(live: Live, tmp_path: Path) -> None:
    """One turn ends while the version is checked; another begins then, and ends after the refusal."""
    run_id, engine, began = claim(live), live.parts.engine, threading.Event()
    request = publication(live, run_id, "Mixed up. " * 20, probe_from=script(tmp_path / "other", "Elsewhere."))
    script(Path(request.path), "Mixed up. " * 20, delay_s=0.01)
    request = request.model_copy(update={"manifest_sha256": write_manifest(Path(request.path), {"kind": "full"})})

    def read_slowly() -> None:
        for _ in live.openai(key="slow").chat.completions.create(model="policy", messages=ASK, stream=True):
            began.set()

    slow = threading.Thread(target=read_slowly)

    async def meanwhile(*_: Any) -> list[float]:
        assert (await asyncio.to_thread(says, live))[1] == "policy@1"
        slow.start()
        assert await asyncio.to_thread(began.wait, 60)
        return [0.0] * (len(request.probe.token_ids) - 1)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(engine, "spot_check", meanwhile)
        with pytest.raises(UpturnAPIError, match="not the trained ones"):
            live.client.publish(request)
    slow.join(60)
    says(live)
    with sqlite3.connect(tmp_path / "data" / "upturn.db") as connection:
        rows = connection.execute(
            "select distinct turn.id, turn.trainable, turn.untrainable_reason, exists "
            "(select 1 from node where node.turn_id = turn.id and node.policy_version = 1) from turn order by turn.id"
        ).fetchall()
    connection.close()
    assert [row[1:] for row in rows] == [(0, "refused_version", 1), (0, "refused_version", 1), (1, None, 0)]


def test_a_run_that_trained_nothing_says_so_and_why(live: Live) -> None:
    reward_two(live, "same", (1.0, 1.0))
    run_id = claim(live, steps=1)
    batch = lease(live, run_id)
    skipped = BatchAck(learner=LEARNER, state="trained", metrics={"trained_tokens": 0.0, "skipped": 1.0})
    live.client.acknowledge_batch(batch.id, skipped)
    run = live.client.end_run(run_id, RunEnd(learner=LEARNER, state="done", reason="all steps are done"))
    assert (run.state, run.step, run.trained_steps) == ("done", 1, 0)
    assert run.steps[0].nothing_to_learn == "1 group scored alike"
    assert run.reason == (
        "0 episodes trained, because 1 group scored alike; choose tasks that the policy sometimes solves (curriculum = "
        "learnability), or larger groups (all steps are done)"
    )
    assert live.client.runs().data[0].trained_steps == 0


def test_a_run_tells_its_learner_the_engines_precision_until_it_ends(live: Live) -> None:
    run_id = claim(live)
    assert live.client.run(run_id).precision == live.parts.engine.precision == "float32"
    ended = live.client.end_run(run_id, RunEnd(learner=LEARNER, state="failed", reason="tested"))
    assert (ended.precision, ended.reason) == (None, "tested")


def test_a_run_is_refused_if_the_engine_computes_in_float16(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live.parts.engine, "precision", "float16")
    with pytest.raises(UpturnAPIError, match=r"--engine\.dtype bfloat16 or float32") as refused:
        live.client.create_run(RunRequest(config=RunConfig(steps=1)))
    assert (refused.value.status, refused.value.code) == (400, "untrainable_precision")


def test_publishing_twice_returns_the_same_version(live: Live) -> None:
    run_id = claim(live)
    request = publication(live, run_id, "Once.")
    assert live.client.publish(request).version == live.client.publish(request).version == 1


def test_a_changed_or_missing_file_is_refused(live: Live) -> None:
    run_id = claim(live)
    request = publication(live, run_id, "Whole.")
    (Path(request.path) / "script.json").write_text('{"answers": ["Changed."]}')
    with pytest.raises(UpturnAPIError) as refused:
        live.client.publish(request)
    assert (refused.value.status, refused.value.code) == (400, "bad_manifest")
    shutil.rmtree(request.path)
    with pytest.raises(UpturnAPIError):
        live.client.publish(request)
    assert says(live) == ("Hello there.", "policy@0")


def test_weights_outside_the_data_directory_are_refused(live: Live, tmp_path: Path) -> None:
    run_id = claim(live)
    directory = script(tmp_path / "elsewhere", "x")
    request = publication(live, run_id, "y").model_copy(
        update={"path": str(directory), "manifest_sha256": write_manifest(directory, {"kind": "full"})}
    )
    with pytest.raises(UpturnAPIError) as refused:
        live.client.publish(request)
    assert refused.value.code == "bad_path"


def test_a_champion_can_be_rolled_back_and_promoted(live: Live) -> None:
    run_id = claim(live)
    live.client.publish(publication(live, run_id, "New."))
    live.client.rollback()
    assert says(live) == ("Hello there.", "policy@0")
    live.client.promote(1)
    assert says(live) == ("New.", "policy@1")


def test_one_run_trains_at_a_time_and_a_lost_learner_is_replaced(live: Live) -> None:
    first = claim(live)
    live.client.create_run(RunRequest(config=RunConfig(steps=1)))
    assert live.client.claim_run(RunClaim(learner="second")) is None
    live.parts.runs._lease_s = -1.0
    live.client.heartbeat_run(first, LEARNER)
    live.parts.runs._lease_s = 60.0
    taken = live.client.claim_run(RunClaim(learner="second"))
    assert taken is not None and taken.id == first
    with pytest.raises(UpturnAPIError) as refused:
        live.client.heartbeat_run(first, LEARNER)
    assert refused.value.code == "lease_lost"


def test_the_learner_of_a_cancelled_run_is_refused(live: Live) -> None:
    run_id = claim(live)
    assert live.client.cancel_run(run_id).state == "cancelled"
    with pytest.raises(UpturnAPIError) as refused:
        lease(live, run_id)
    assert (refused.value.status, refused.value.code) == (409, "run_cancelled")


def test_unrewarded_open_and_untrainable_episodes_reach_no_batch(live: Live) -> None:
    good = reward_two(live)
    opened = live.client.open_episode(EpisodeOpen(group="another, which waits for it"))
    unrewarded = live.client.open_episode(EpisodeOpen(group="g"))
    excluded = live.client.open_episode(EpisodeOpen(group="g", trainable=False))
    for episode in (opened, unrewarded, excluded):
        live.openai(key=episode.key).chat.completions.create(model="policy", messages=ASK)
    for episode in (opened, excluded):
        live.client.reward(episode.id, RewardRequest(value=0.5))
    for episode in (unrewarded, excluded):
        live.client.close_episode(episode.id)
    batch = lease(live, claim(live))
    assert sorted(s.episode_id for s in batch.samples) == sorted(good)


def test_groups_with_equal_rewards_or_one_episode_are_skipped_and_counted(live: Live) -> None:
    reward_two(live, "flat", (1.0, 1.0))
    reward_two(live, "alone", (1.0,))
    batch = lease(live, claim(live))
    assert (batch.samples, batch.groups_without_variance, batch.groups_incomplete) == ([], 1, 1)


def test_a_run_stored_with_british_keys_is_shown_resumed_and_leased_under_american_ones(live: Live) -> None:
    group = reward_two(live)
    stored = RunConfig(
        steps=1, seed=7, live=FEW_LIVE, optimizer=OptimizerConfig(lr=0.5), normalize_std=False
    ).model_dump(mode="json")
    stored = json.loads(to_british(json.dumps(stored, separators=(",", ":"))))
    assert stored["optimiser"]["lr"] == 0.5 and stored["normalise_std"] is False
    with sqlite3.connect(live.parts.settings.data_dir / "upturn.db") as connection:
        connection.execute(
            "insert into run (id, state, trigger, config, step, reason, active_s, created_at)"
            " values ('run_old', 'paused', 'request', ?, 0, 'paused by request', 0, 0)",
            (json.dumps(stored),),
        )
    connection.close()
    shown = live.http.get("/v1/runs/run_old").json()["config"]
    assert (shown["optimizer"]["lr"], shown["normalize_std"], shown["loss_normalization"]) == (0.5, False, "token")
    assert AMERICAN.keys().isdisjoint(shown)
    assert live.client.runs().data[0].config.optimizer.lr == 0.5
    assert live.client.resume_run("run_old").state == "queued"
    claimed = live.client.claim_run(RunClaim(learner=LEARNER))
    assert claimed is not None and (claimed.id, claimed.config.seed) == ("run_old", 7)
    batch = lease(live, "run_old")
    assert sorted(s.episode_id for s in batch.samples) == sorted(group)
    live.client.acknowledge_batch(batch.id, BatchAck(learner=LEARNER, state="trained"))
    assert live.client.end_run("run_old", RunEnd(learner=LEARNER, state="done", reason="tested")).step == 1


def test_a_request_may_use_either_spelling_but_not_both_and_must_name_a_known_algorithm(live: Live) -> None:
    made = live.http.post("/v1/runs", json={"config": {"steps": 1, "optimiser": {"lr": 0.5}}})
    assert made.json()["config"]["optimizer"]["lr"] == 0.5
    for wrong in ({"optimiser": {}, "optimizer": {}}, {"optimise": {}}, {"algorithm": "unknown"}):
        refused = live.http.post("/v1/runs", json={"config": {"steps": 1, **wrong}})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_request")
    shown = live.http.get("/openapi.json").json()["components"]["schemas"]["RunConfig"]["properties"]
    assert set(AMERICAN.values()) <= shown.keys() and AMERICAN.keys().isdisjoint(shown)
