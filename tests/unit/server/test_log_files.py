"""The log files of child processes stay small."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from server.engines.options import VllmOptions
from server.engines.vllm.process import VllmProcess
from server.log_files import LogFiles


def test_a_log_that_grew_too_large_is_cut_and_its_writer_goes_on(tmp_path: Path) -> None:
    files = LogFiles(tmp_path, limit_bytes=1000)
    with (tmp_path / "vllm.log").open("ab", buffering=0) as child:
        for night in range(30):
            child.write(b"%03d" % night * 400)
            files.trim()
            assert sum(file.stat().st_size for file in tmp_path.glob("vllm.log*")) <= 2 * 1200
        child.write(b"the last line")
    assert (tmp_path / "vllm.log").read_bytes() == b"the last line"
    assert (tmp_path / "vllm.log.1").read_bytes() == b"029" * 400


def test_logs_of_old_runs_are_deleted(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    for number in range(5):
        file = tmp_path / "logs" / f"learner-run_{number}.log"
        file.write_text("x")
        os.utime(file, (number, number))
    (tmp_path / "logs" / "mine.log").write_text("x" * 5000)
    LogFiles(tmp_path, limit_bytes=1000, kept_runs=2).trim()
    kept = sorted(file.name for file in (tmp_path / "logs").iterdir())
    assert kept == ["learner-run_3.log", "learner-run_4.log", "mine.log"]


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        ("usage: vllm\n  --a\nvllm: error: unrecognized arguments: --nonsense\n", "unrecognized arguments: --nonsense"),
        ("ValueError: no room\nRuntimeError: Engine core initialization failed. See root cause\n", "no room"),
        (
            "x.ValidationError: 1 validation error for ModelConfig\n  Value error, too long\n",
            "Config: Value error, too long",
        ),
        ("", "its log is empty"),
    ],
)
def test_the_cause_of_a_vllm_that_ended_is_the_first_error_of_this_start(tmp_path: Path, log: str, cause: str) -> None:
    process = VllmProcess(VllmOptions(), tmp_path, tmp_path)
    process.log_path.write_text(log)
    assert process.cause().endswith(cause)
