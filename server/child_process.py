"""Runs vLLM or a learner and lets none of its processes outlive the server, not even `kill -9`. Standard library only.

    python watch.py SERVER_PID command ...

vLLM is several processes, and its engine and workers go on when their parent is killed (measured); a learner would go
on with a run that the next server gives to another. This process starts the command in a process group of its own and
kills that whole group when the server is gone, when it is told to stop (SIGTERM), or when the command itself has ended.
It exits with the command's own status. Started by `engines/vllm_process.py` and `training/learner_process.py`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

POLL_S = 0.1
GRACE_S = 8.0
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def watched(command: list[str]) -> list[str]:
    """Return the command line that runs a command under this watch, for the life of the calling process."""
    return [sys.executable, "-I", str(Path(__file__).absolute()), str(os.getpid()), *command]


def main(server_pid: int, command: list[str]) -> int:
    """Run the command until it ends, the server is gone, or SIGTERM comes."""
    told_to_stop = False

    def stop(_signal: int, _frame: FrameType | None) -> None:
        nonlocal told_to_stop
        told_to_stop = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    child = subprocess.Popen(command, start_new_session=True, preexec_fn=_die_with_parent)
    while child.poll() is None and not told_to_stop and os.getppid() == server_pid:
        time.sleep(POLL_S)
    if child.poll() is None:
        child.terminate()  # vLLM then ends its own processes in order, a learner gives its batch back
        deadline = time.monotonic() + GRACE_S
        while child.poll() is None and time.monotonic() < deadline:
            time.sleep(POLL_S)
    _kill_group(child)
    return child.wait()


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the child's group, and wait for it: its orphans are ours to reap."""
    while True:
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        child.wait()
        try:
            os.waitpid(-child.pid, os.WNOHANG)
        except ChildProcessError:
            pass  # not ours yet: its parent is still dying
        time.sleep(0.01)


def _die_with_parent() -> None:
    """If this watcher itself is killed, the command gets SIGTERM and ends its own processes."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    status = main(int(sys.argv[1]), sys.argv[2:])
    sys.exit(status if status >= 0 else 128 - status)
