"""A learner's rehearsal: every algorithm trains a dry step, and nothing is claimed, published, or kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from learner import rehearsal
from learner.checks import BadInput
from learner.loop import do_next_run
from learner.rehearsal import rehearse
from learner.settings import LearnerSettings
from tests.unit.learner.test_learner_campaign import Nights, set_up
from upturn.wire import ALGORITHMS, RunConfig

SMALL = {"lora_rank": 4}


def rehearsed(
    server: Nights, settings: LearnerSettings, capsys: pytest.CaptureFixture[str], **changes: Any
) -> tuple[int, dict[str, dict[str, Any]]]:
    """Rehearse the server's run; return the exit code and the stages with their figures."""

    def only_reads(request: httpx2.Request) -> None:
        assert request.method == "GET", f"a rehearsal sent {request.method} {request.url.path}"

    config = RunConfig.model_validate({**server.run.config.model_dump(), **changes})
    run = server.run.model_copy(update={"config": config, "state": "running"})
    file = settings.work_dir.parent / "run.json"
    file.write_text(json.dumps({"run": run.model_dump(mode="json"), "context_tokens": 96}))
    settings.work_dir.mkdir(exist_ok=True)
    handle = server.handle
    server.handle = lambda request: only_reads(request) or handle(request)  # type: ignore[method-assign]
    capsys.readouterr()
    try:
        code = rehearse(server.client(), settings, file)
    finally:
        server.handle = handle  # type: ignore[method-assign]
    stages = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return code, {stage.pop("stage"): stage for stage in stages}


def kept(settings: LearnerSettings) -> set[str]:
    """Return the files of the learner, without what a rehearsal leaves for the server to delete."""
    files = (str(path.relative_to(settings.work_dir)) for path in settings.work_dir.rglob("*"))
    return {file for file in files if not file.startswith("rehearsal")}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_learns_from_the_dry_batch_and_only_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], algorithm: str
) -> None:
    server, settings = set_up(tmp_path, 1, None, {"algorithm": algorithm, "kind": "full", "evol_threshold": 0.99})
    code, stages = rehearsed(server, settings, capsys, guards={})
    assert (code, list(stages)) == (0, ["state", "horizon", "step", "row"]), stages
    assert stages["row"]["tokens"] == 96 and stages["row"]["peak_bytes"] > 0
    assert stages["step"]["checkpoints_bytes"] > 9 * stages["state"]["parameters"] * 4, (
        "weights and two moments, thrice"
    )
    assert kept(settings) == set()


def test_an_adapter_is_written_for_the_server_to_try(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server, settings = set_up(tmp_path, 1, None, {"kind": "adapter", **SMALL})
    code, stages = rehearsed(server, settings, capsys, guards={})
    assert (code, list(stages)) == (0, ["state", "horizon", "step", "version", "row"]), stages
    assert Path(stages["version"]["path"]).is_relative_to(settings.work_dir / "rehearsal")
    weights = Path(stages["version"]["path"]) / "adapter_model.safetensors"
    assert stages["step"]["version_bytes"] <= weights.stat().st_size < 2 * stages["step"]["version_bytes"]
    assert kept(settings) == set() and len(server.versions) == 1


def test_the_state_of_the_last_night_is_loaded_and_a_change_that_cannot_continue_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server, settings = set_up(tmp_path, 2, "nightly", {"kind": "adapter", **SMALL})
    night = do_next_run(server.client(), settings)
    assert night is not None and night.state == "done"
    server.next_night()
    before = kept(settings)
    code, stages = rehearsed(server, settings, capsys, guards={})
    assert (code, stages["state"]["repeated_steps"]) == (0, 0)
    code, stages = rehearsed(server, settings, capsys, lora_rank=8)
    assert (code, list(stages)) == (1, ["error"]) and stages["error"]["at"] == "state"
    assert "cannot continue with another lora_rank (lora_rank was 4)" in stages["error"]["message"]
    assert kept(settings) == before
    for directory in (settings.work_dir / "checkpoints" / night.id).iterdir():
        for file in directory.glob("*.distcp"):
            file.write_bytes(b"broken")
    code, stages = rehearsed(server, settings, capsys, guards={})
    assert stages["error"]["at"] == "state" and "cannot be written or read" in stages["error"]["message"]


def test_steps_that_the_run_would_repeat_are_counted_and_not_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server, settings = set_up(tmp_path, 2, "nightly", {"kind": "full"})
    assert do_next_run(server.client(), settings) is not None
    (checkpoint,) = (settings.work_dir / "checkpoints" / "r1").iterdir()
    checkpoint.rename(checkpoint.with_name("step-000002.part"))
    server.next_night()
    code, stages = rehearsed(server, settings, capsys, guards={})
    assert (code, stages["state"]["repeated_steps"]) == (0, 2) and server.replayed == []


def test_what_does_not_fit_or_is_no_model_fails_as_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, settings = set_up(tmp_path, 1, None, {"kind": "full"})
    with monkeypatch.context() as small:
        small.setattr("learner.model.fit.free_bytes", lambda device: 1000)
        code, stages = rehearsed(server, settings, capsys)
    assert code == 1 and stages["error"]["at"] == "memory" and "GiB are free" in stages["error"]["message"]
    (tmp_path / "base" / "model.safetensors").unlink()
    code, stages = rehearsed(server, settings, capsys)
    assert code == 1 and stages["error"]["at"] == "memory" and "has no weights" in stages["error"]["message"]


def test_an_error_of_the_step_names_its_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, settings = set_up(tmp_path, 1, None, {"kind": "full"})

    def refuse(*_: object) -> None:
        raise BadInput("no")

    monkeypatch.setattr(rehearsal, "dry_batch", refuse)
    code, stages = rehearsed(server, settings, capsys)
    assert (code, stages["error"]) == (1, {"at": "step", "message": "no"})
