"""A stop takes a bounded time: no handler of Python runs during a long call into C, such as a backward pass."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROGRAM = """
import hashlib, signal, sys, time
from learner.stopping import ending_in_time

def stop(number, frame):
    {reaction}

def give_back():
    print("given back", flush=True)
    {give_back}

for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, stop)
with ending_in_time(give_back, grace_s={grace_s}):
    print("computing", flush=True)
    {compute}
"""
ENDLESS = "hashlib.pbkdf2_hmac('sha256', b'', b'', 2_000_000_000)"


def stopped(number: int, compute: str, grace_s: float, give_back: str = "", reaction: str = "pass") -> tuple[int, str]:
    """Send a signal to a process that computes; return its exit code and what it printed after that."""
    program = PROGRAM.format(compute=compute, grace_s=grace_s, give_back=give_back, reaction=reaction)
    command = [sys.executable, "-c", program]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    try:
        assert any(line == "computing\n" for line in process.stdout)
        process.send_signal(number)
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()  # does nothing if it has ended
        process.wait()
    return process.returncode, output


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_stop_in_the_middle_of_a_computation_gives_the_run_back_and_ends_the_process(number: int, code: int) -> None:
    ended, output = stopped(number, ENDLESS, 0.1)
    assert ended == code and output.count("given back") == 1


def test_a_failure_to_give_the_run_back_does_not_keep_the_process() -> None:
    ended, output = stopped(signal.SIGTERM, ENDLESS, 0.1, "raise OSError('no server')")
    assert ended == 0 and "no server" in output


def test_a_process_that_stops_by_itself_is_left_alone() -> None:
    assert stopped(signal.SIGTERM, "time.sleep(600)", 600.0, reaction="raise SystemExit(7)") == (7, "")
