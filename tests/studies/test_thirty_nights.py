"""A few of the thirty nights: better at the end, and never fooled, though the benchmark too is killed once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.support.thirty_nights.plan import QUICK

ROOT = Path(__file__).parents[2]
KILLED_AFTER = 2
"""Nights after which the benchmark is killed, in the middle of the next one."""


def nights(directory: Path, engine: str, lines: int | None) -> list[str]:
    """Run the benchmark to its end, or kill it after some lines; return its lines."""
    command = [sys.executable, "benchmarks/thirty_nights.py", "--quick", "--engine", engine, "--directory", directory]
    printed = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as benchmark:
        assert benchmark.stdout is not None
        for line in benchmark.stdout:
            printed.append(line)
            if len(printed) == lines:
                benchmark.send_signal(signal.SIGKILL)
    return printed


@pytest.mark.long
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("engine", ["local", pytest.param("vllm", marks=pytest.mark.vllm)])
def test_a_server_that_is_left_alone_is_better_after_some_nights_and_is_never_fooled(
    tmp_path: Path, engine: str
) -> None:
    before = nights(tmp_path, engine, 2 + 1 + KILLED_AFTER)
    printed = nights(tmp_path, engine, None)
    assert printed[: len(before)] == before, "the nights before the kill are not those that are continued"
    found: dict[str, Any] = json.loads(printed[-1])
    assert [promise for promise, kept in found["promises"].items() if not kept] == []
    assert len(found["promises"]) == 9
    assert (found["nights"], found["lost"], found["twice"], found["failed"]) == (QUICK.nights, 0, 0, 0)
    assert found["interval"][0] > 0 and found["false_promotions"] == []
    assert found["interrupted_swaps"] >= 1, "no kill hit a swap"
    assert (tmp_path / "thirty_nights.png").exists()
