"""Which learner may hold a run: one whose versions the server can read, and only until it gives the run back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.live import Live
from tests.support.runs.scripted import FEW_LIVE, LEARNER, claim, lease, reward_two
from upturn.client import UpturnAPIError
from upturn.wire import BatchRequest, RunClaim, RunConfig, RunRequest

ROOT = Path(__file__).parents[3]


def test_a_learner_that_stops_gives_its_run_to_the_next_one_at_once_with_the_same_batch(live: Live) -> None:
    reward_two(live)
    run_id = claim(live)
    batch = lease(live, run_id)
    assert live.client.claim_run(RunClaim(learner="next")) is None
    for _ in range(2):  # A repeated release does nothing more.
        live.client.release_run(LEARNER)
    assert live.client.run(run_id).state == "running" and not live.parts.runs.training
    taken = live.client.claim_run(RunClaim(learner="next"))
    assert taken is not None and taken.id == run_id
    same = live.client.lease_batch(BatchRequest(run_id=run_id, learner="next", step=0, horizon=5))
    assert (same.id, same.samples) == (batch.id, batch.samples)


def test_a_release_frees_only_the_run_that_the_learner_holds(live: Live) -> None:
    run_id = claim(live)
    live.client.release_run("somebody else")
    live.client.heartbeat_run(run_id, LEARNER)
    live.client.release_run(LEARNER)
    assert live.client.claim_run(RunClaim(learner="next")) is not None
    live.client.release_run(LEARNER)
    live.client.heartbeat_run(run_id, "next")
    live.client.cancel_run(run_id)
    live.client.release_run("next")
    assert live.client.run(run_id).state == "cancelled"


def test_a_heartbeat_that_arrives_after_the_release_does_not_take_the_run_back(live: Live) -> None:
    run_id = claim(live)
    live.client.release_run(LEARNER)
    with pytest.raises(UpturnAPIError) as late:
        live.client.heartbeat_run(run_id, LEARNER)
    assert late.value.code == "lease_lost"
    assert live.client.claim_run(RunClaim(learner="next")) is not None


@pytest.mark.parametrize("place", ["elsewhere", "not absolute", "unseen", "outside by dots", "null"])
def test_a_learner_whose_versions_the_server_cannot_read_is_refused_and_the_run_stays_queued(
    live: Live, tmp_path: Path, place: str
) -> None:
    run = live.client.create_run(RunRequest(config=RunConfig(steps=1, live=FEW_LIVE)))
    data = live.parts.settings.data_dir
    directory = {
        "elsewhere": str(tmp_path),
        "not absolute": "data/learner",
        "unseen": f"{data}/nowhere",
        "outside by dots": f"{data}/..",
        "null": "/a\0b",
    }[place]
    with pytest.raises(UpturnAPIError) as refused:
        live.client.claim_run(RunClaim(learner=LEARNER, work_dir=directory))
    assert (refused.value.status, refused.value.code) == (400, "bad_path")
    assert place == "null" or "--work-dir" in refused.value.message
    assert live.client.run(run.id).state == "queued"
    assert live.client.claim_run(RunClaim(learner=LEARNER, work_dir=str(data))) is not None


def test_a_learner_started_in_another_directory_ends_at_once_and_names_the_right_one(
    live: Live, tmp_path: Path
) -> None:
    run = live.client.create_run(RunRequest(config=RunConfig(steps=1, live=FEW_LIVE)))
    command = [sys.executable, "-m", "learner", "run", "--server", live.url, "--work-dir", str(tmp_path / "other")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert f"--work-dir {live.parts.settings.data_dir.resolve() / 'learner'}" in done.stderr
    assert "Traceback" not in done.stderr
    assert live.client.run(run.id).state == "queued"
