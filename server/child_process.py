"""Supervises a child process so that nothing of it outlives the server, not even after `kill -9`.

    python child_process.py SERVER_PID command ...

vLLM is several processes, and its engine and workers keep running when their parent is killed (measured). A surviving
learner would continue a run that the next server gives to another learner. This program starts the command in a process
group of its own. It kills the whole group when the server is gone, when it receives SIGTERM, or when the command itself
has ended, and exits with the command's status. vLLM, learners and environment hosts are started under it; it needs the
standard library only.
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
"""Time between asking the command to end and killing it."""
GRACE = "--grace-s="
"""Flag before SERVER_PID with another such time."""
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def supervised(command: list[str], grace_s: float = GRACE_S) -> list[str]:
    """Return the command line that runs a command under supervision, for the life of the calling process.

    Args:
        command: program and arguments.
        grace_s: time between asking the command to end and killing it, in seconds.
    """
    grace = [] if grace_s == GRACE_S else [f"{GRACE}{grace_s}"]
    return [sys.executable, "-I", str(Path(__file__).absolute()), *grace, str(os.getpid()), *command]


def main(server_pid: int, command: list[str], grace_s: float = GRACE_S) -> int:
    """Run the command until it ends, the server is gone, or SIGTERM arrives; return its status."""
    stopping = False

    def stop(_signal: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    child = subprocess.Popen(command, start_new_session=True, preexec_fn=_die_with_parent)
    while child.poll() is None and not stopping and os.getppid() == server_pid:
        time.sleep(POLL_S)
    if child.poll() is None:
        child.terminate()  # vLLM then ends its own processes in order, and a learner returns its batch.
        deadline = time.monotonic() + grace_s
        while child.poll() is None and time.monotonic() < deadline:
            time.sleep(POLL_S)
    _kill_group(child)
    return child.wait()


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    """Kill the rest of the child's group and wait for it: this process has to reap the orphans."""
    while True:
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        child.wait()
        try:
            os.waitpid(-child.pid, os.WNOHANG)
        except ChildProcessError:
            pass  # Not this process's child yet: its parent is still dying.
        time.sleep(0.01)


def _die_with_parent() -> None:
    """Send the command SIGTERM if this supervisor is killed, so that it ends its own processes."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    first = 2 if sys.argv[1].startswith(GRACE) else 1
    grace_s = float(sys.argv[1].removeprefix(GRACE)) if first == 2 else GRACE_S
    status = main(int(sys.argv[first]), sys.argv[first + 1 :], grace_s)
    sys.exit(status if status >= 0 else 128 - status)
