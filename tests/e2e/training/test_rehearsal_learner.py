"""A rehearsal with a real learner: it loads, trains a dry step, and publishes nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from env_adapters import environment_spec
from server.training.settings import LearnerSettings
from tests.support.live import Live, until
from tests.support.runs.learned import serve_tiny, wait_for
from tests.support.runs.rehearsed import failures, rehearsed, tables
from upturn.wire import FixedHorizon, PlayPlan, RehearsalRequest, RunConfig, RunRequest

TASKS = [t for t in environment_spec("textcraft").tasks("train") if t.startswith("1/")][:4]
CONFIG = RunConfig(
    campaign="nightly",
    algorithm="sft",
    steps=1,
    schedule=FixedHorizon(horizon=8),
    play=PlayPlan(environment="textcraft", tasks=TASKS, groups=2, group_size=1, agent="oracle"),
)
GRPO = CONFIG.model_copy(
    update={
        "algorithm": "grpo",
        "campaign": None,
        "play": PlayPlan(environment="textcraft", tasks=TASKS, groups=2, group_size=2),
    }
)


def versions(live: Live) -> list[int]:
    return [policy.version for policy in live.client.policies().data]


def files(live: Live) -> set[str]:
    """Return the files under the learner's directory."""
    root = live.parts.settings.data_dir / "learner"
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def break_checkpoint(live: Live) -> None:
    for file in (live.parts.settings.data_dir / "learner" / "checkpoints").rglob("*.distcp"):
        file.write_bytes(b"broken")


@pytest.mark.parametrize("kind", ["full", "adapter"])
def test_the_learner_rehearses_the_next_night_and_publishes_nothing(tmp_path: Path, kind: str) -> None:
    with serve_tiny(tmp_path, "local", kind) as live:
        first = {check.name: check for check in rehearsed(live, GRPO, limit_s=600)}
        assert {name for name, check in first.items() if check.result == "failed"} == set(), first
        assert "a step with a row of 1024 tokens takes" in first["memory"].text
        night = wait_for(live, live.client.create_run(RunRequest(config=CONFIG)).id)
        assert night.state == "done", night.reason
        before = tables(live), files(live), versions(live), live.parts.engine.versions
        next_night = {check.name: check for check in rehearsed(live, CONFIG, limit_s=600)}
        assert {name for name, check in next_night.items() if check.result == "failed"} == set(), next_night
        assert f"continues after global step 1, with the state of run {night.id}" in next_night["campaign"].text
        assert "loads exactly the state that it continues" in next_night["state"].text
        assert "opened, 2 turns by its solver" in next_night["environment textcraft by its solver"].text
        if kind == "adapter":
            assert "loaded a new adapter" in next_night["engine"].text
            changed = CONFIG.model_copy(update={"lora_rank": 4})
            assert "cannot continue with another lora_rank" in failures(rehearsed(live, changed, limit_s=600))["state"]
        assert (tables(live), files(live), versions(live), live.parts.engine.versions) == before
        break_checkpoint(live)
        assert "cannot be written or read" in failures(rehearsed(live, CONFIG, limit_s=600))["state"]


def test_a_learner_that_cannot_load_or_start_fails_and_a_run_comes_first(tmp_path: Path) -> None:
    with serve_tiny(tmp_path, "local", "adapter") as live:
        assert live.parts.learner is not None
        started = live.client.start_rehearsal(RehearsalRequest(config=GRPO, limit_s=600))
        until(lambda: "state (request)" in live.client.rehearsal(started.id).pending)
        until(lambda: live.parts.learner is not None and live.parts.learner._rehearsal is not None)
        run = live.client.create_run(RunRequest(config=CONFIG))
        cut = failures(live.client.wait_for_rehearsal(started.id).checks)
        assert "a run has started" in cut["state"]
        assert wait_for(live, run.id).state == "done"
        live.parts.learner._settings = LearnerSettings(arguments=["--no-such-option"])
        assert "the learner ended with status 2" in failures(rehearsed(live, GRPO, limit_s=600))["state"]
        live.parts.learner._settings = LearnerSettings(threads=1)
        shutil.move(tmp_path / "model" / "model.safetensors", tmp_path / "moved")
        assert "has no weights" in failures(rehearsed(live, GRPO, limit_s=600))["memory"]
