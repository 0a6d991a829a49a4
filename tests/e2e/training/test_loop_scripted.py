"""The whole line with the scripted engine: chat, turn, episode, batch, publish, swap, and the next version answers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.live import Live, script
from tests.support.runs.scripted import ASK, LEARNER, claim, lease, publication, reward_two, says
from upturn.client import UpturnAPIError
from upturn.manifest import write_manifest
from upturn.wire import (
    BatchAck,
    BatchRequest,
    EpisodeOpen,
    RewardRequest,
    RunClaim,
    RunConfig,
    RunEnd,
    RunRequest,
    TrainedEpisode,
)


def test_from_chat_to_the_next_version(live: Live) -> None:
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


def test_a_batch_is_the_same_when_asked_again_and_cannot_be_trained_twice(live: Live) -> None:
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


def test_a_trained_batch_is_given_again_only_to_a_learner_on_its_way_back(live: Live) -> None:
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


def test_live_episodes_without_a_group_train_reinforce_pp_and_dpo_pairs_them_by_their_prompt(live: Live) -> None:
    for value in (1.0, 0.5, 0.0):
        opened = live.client.open_episode(EpisodeOpen())
        live.openai(key=opened.key).chat.completions.create(model="policy", messages=ASK)
        live.client.reward(opened.id, RewardRequest(value=value))
        live.client.close_episode(opened.id)
    for algorithm, rewards in (("grpo", []), ("reinforce_pp", [0.0, 0.5, 1.0]), ("dpo", [0.0, 1.0])):
        run = live.client.create_run(RunRequest(config=RunConfig(steps=1, algorithm=algorithm)))
        live.client.claim_run(RunClaim(learner=LEARNER))
        samples = lease(live, run.id).samples
        assert sorted(s.reward for s in samples) == rewards
        assert len({s.group for s in samples} - {None}) == (algorithm == "dpo")
        live.client.end_run(run.id, RunEnd(learner=LEARNER, state="done", reason="tested"))


def test_weights_that_are_not_what_was_trained_never_serve(live: Live, tmp_path: Path) -> None:
    run_id = claim(live)
    other = script(tmp_path / "other", "Trained elsewhere.")
    with pytest.raises(UpturnAPIError) as refused:
        live.client.publish(publication(live, run_id, "Mixed up.", probe_from=other))
    assert refused.value.code == "check_failed"
    assert says(live) == ("Hello there.", "policy@0")
    assert live.client.publish(publication(live, run_id, "Right.")).version == 2, "a failed version's number is spent"


def test_publishing_twice_gives_the_same_version(live: Live) -> None:
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


def test_one_run_at_a_time_and_a_lost_learner_is_replaced(live: Live) -> None:
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


def test_a_cancelled_run_tells_its_learner(live: Live) -> None:
    run_id = claim(live)
    assert live.client.cancel_run(run_id).state == "cancelled"
    with pytest.raises(UpturnAPIError) as refused:
        lease(live, run_id)
    assert (refused.value.status, refused.value.code) == (409, "run_cancelled")


def test_failed_unrewarded_open_and_untrainable_episodes_reach_no_batch(live: Live) -> None:
    good = reward_two(live)
    opened = live.client.open_episode(EpisodeOpen(group="g"))
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


def test_a_group_whose_rewards_are_all_equal_is_skipped_and_counted(live: Live) -> None:
    reward_two(live, "flat", (1.0, 1.0))
    reward_two(live, "alone", (1.0,))
    batch = lease(live, claim(live))
    assert (batch.samples, batch.groups_without_variance, batch.groups_incomplete) == ([], 1, 1)
