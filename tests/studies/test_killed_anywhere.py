"""A campaign whose processes are killed at every border of its work equals one that nothing happens to."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.live import until
from tests.support.process import ROOT, process
from tests.support.runs.nights import FLAGS, Learned, check_equal, config, learned
from tests.support.tiny_model import make_tiny_model
from upturn.client import Client
from upturn.wire import EvaluationPlan, RunConfig, RunRequest

POINTS = [
    # The learner: claim, step, weights, publication, checkpoint, acknowledgement, end.
    "after learner.state.campaign:begin",
    "after learner.step:Trainer.step",
    "after learner.publish:write_version",
    "after learner.versions:RunVersions.publish",
    "before learner.state.checkpoint:save_checkpoint",
    "after learner.state.checkpoint:save_checkpoint",
    "after learner.state.campaign:delete_old_checkpoints",
    # The server: claim, registration, acceptance, acknowledgement, end, comparison, decision.
    "after server.training.runs:Runs.claim",
    "after server.versions.publish:Publisher._register",
    "after server.versions.publish:Publisher._record",
    "after server.training.batches:Batches.acknowledge",
    "after server.training.runs:Runs.end",
    "before server.training.comparing:Comparing.judge",
    "after server.training.comparing:Comparing.judge",
    "after server.versions.champion:Champions.settle",
]
STEPS, EVERY = 2, 7
HOOK = ROOT / "tests" / "support" / "kill_points"


@dataclass(frozen=True)
class Night:
    """What one night's run and its decision left in the database, without names and times."""

    state: str
    gate: str | None
    first_step: int
    steps: int
    decisions: list[tuple[str, int | None]]
    """Action, and the judged version's learner step."""


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_campaign_survives_a_kill_at_every_border(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = campaign(tmp_path / "quiet", None)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HOOK), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("KILL_POINTS", " ".join(dict.fromkeys(point.split()[1] for point in POINTS)))
    monkeypatch.setenv("KILL_ARMED", str(tmp_path / "armed"))
    killed = campaign(tmp_path / "killed", tmp_path / "armed")
    assert nights(tmp_path / "killed") == nights(tmp_path / "quiet")
    check_equal(killed, quiet)


def campaign(directory: Path, armed: Path | None) -> Learned:
    """Train a night for each point; if a file to arm is given, a process of the night is killed at the point."""
    directory.mkdir()
    model, ids = make_tiny_model(directory / "model"), list[str]()
    flags = (*FLAGS, "--learner.env", '["KILL_POINTS","KILL_ARMED"]', "--weights", "adapter", "--gate.min-tasks", "2")
    while True:
        with process(directory / "data", model, *flags) as (server, url), Client(url) as client:
            if ids:
                until(lambda: server.poll() is not None or _decided(directory, ids[-1]), "no decision", 600)
            while server.poll() is None:
                if len(ids) == len(POINTS):
                    return learned(client, directory, ids)
                point = POINTS[len(ids)]
                if armed is not None:
                    armed.write_text(point)
                ids.append(client.create_run(RunRequest(config=night())).id)
                until(lambda: server.poll() is not None or _decided(directory, ids[-1]), "no decision", 600)
                if armed is not None:
                    until(lambda: not armed.exists(), f"nothing got {point}", 30)
                    if " server." in point:
                        server.wait(30)


def night() -> RunConfig:
    plan = EvaluationPlan(tasks={"two-letters": "test"}, draw=4, repetitions=2, sampling={"max_tokens": 2})
    return config("adapter", STEPS, EVERY, "nightly").model_copy(update={"evaluation": plan, "checkpoint_every": 1})


def _decided(directory: Path, run_id: str) -> bool:
    connection = sqlite3.connect(directory / "data" / "upturn.db")
    try:
        (state, gate), *_ = connection.execute("select state, gate from run where id = ?", (run_id,)).fetchall()
    finally:
        connection.close()
    assert state in ("queued", "running", "done"), (directory / f"data/logs/learner-{run_id}.log").read_text()[-3000:]
    return state == "done" and gate != "due"


def nights(directory: Path) -> list[Night]:
    connection = sqlite3.connect(directory / "data" / "upturn.db")
    runs = connection.execute("select id, state, gate, first_step, step from run order by id").fetchall()
    found = []
    for run_id, *rest in runs:
        decisions = connection.execute(
            "select action, v.step from promotion p left join policy_version v on v.run_id = p.run_id and "
            "v.version in (p.from_version, p.to_version) where p.run_id = ? order by p.id",
            (run_id,),
        ).fetchall()
        found.append(Night(*rest, decisions))
    connection.close()
    return found
