"""How much memory this server and the processes that it started hold, by what they are for. Linux only."""

from __future__ import annotations

import os
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

PROC = Path("/proc")
MARKS = {"vllm": "engine", "learner": "learner", "env_adapters": "environments"}
"""Packages whose module a process runs, and what it is for."""
OTHER = "other"


def resident_bytes(server_pid: int | None = None) -> dict[str, int]:
    """Return resident memory in bytes by purpose: `server`, `engine`, `learner`, `environments`; empty elsewhere.

    Memory that processes share counts in each. A local engine is a part of the server.
    """
    pid = os.getpid() if server_pid is None else server_pid
    children: dict[int, list[int]] = defaultdict(list)
    try:
        for entry in PROC.iterdir():
            if entry.name.isdecimal() and (parent := _parent(entry)) is not None:
                children[parent].append(int(entry.name))
        held = {"server": _resident(pid)}
    except OSError:
        return {}
    for child in children[pid]:
        purpose = _purpose(child)
        waiting, total = [child], 0
        while waiting:
            at = waiting.pop()
            total += _resident(at)
            waiting += children[at]
        held[purpose] = held.get(purpose, 0) + total
    return held


def _parent(entry: Path) -> int | None:
    try:
        stat = (entry / "stat").read_text()
    except OSError:  # It has ended.
        return None
    return int(stat.rpartition(")")[2].split()[1])  # The name before it may contain anything.


def _resident(pid: int) -> int:
    try:
        pages = int((PROC / str(pid) / "statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _purpose(pid: int) -> str:
    try:
        line = (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return OTHER
    words = line.split()
    modules = [after.partition(".")[0] for flag, after in pairwise(words) if flag == "-m"]
    return next((MARKS[module] for module in modules if module in MARKS), OTHER)
