"""The shared record of why the processes of one learner end: the first entry counts, and ends all of them.

If something happens to one process alone, such as a row too large for its memory or a signal, it writes that here,
where all others read it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

import torch.distributed as dist
from torch.distributed.distributed_c10d import Store


class ProcessFailed(Exception):
    """Another process failed; the message is its reason."""


class ProcessGone(BaseException):
    """Another process was stopped or lost: leave the run unfinished, for the learner that continues it."""


@dataclass(frozen=True)
class End:
    """Why processes end."""

    kind: Literal["failed", "gone"]
    """`failed`: an error ends the run. `gone`: a process was stopped or lost, and the run can continue later."""
    process: int
    """Number of the process."""
    reason: str


class Ending:
    """The record, in the store that all processes share.

    Args:
        store: shared by all processes.
        rank: number of this process.
        size: number of processes.
    """

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self._store = store
        self._rank = rank
        self._size = size

    def write(self, kind: Literal["failed", "gone"], reason: str) -> End:
        """Record why this process ends; return the first entry of all processes."""
        own = json.dumps(asdict(End(kind, self._rank, reason)))
        try:
            return End(**json.loads(self._store.compare_set("end", "", own)))
        except RuntimeError:  # the store lives on process 0's machine
            return End("gone", 0, "its machine does not answer")

    def read(self) -> End | None:
        """Return the first entry of all processes; None if all are well.

        Raises:
            RuntimeError: process 0's machine does not answer.
        """
        return End(**json.loads(self._store.get("end"))) if self._store.check(["end"]) else None

    def root_cause(self, error: Exception, reason: str) -> BaseException:
        """Record this process's error, and return the error that all processes end with.

        Args:
            error: raised in this process.
            reason: the reason that the run would end with.
        """
        lost = isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error)
        if lost:
            reason = f"the connection to another process broke: {error}"
        end = self.write("gone" if lost else "failed", reason)
        if isinstance(error, ProcessFailed) or (not lost and end.reason == reason):
            return error
        return self.as_error(end)

    def as_error(self, end: End) -> BaseException:
        """Return the error with which a process ends because of an entry."""
        text = f"process {end.process} of {self._size}: {end.reason}"
        return ProcessFailed(text) if end.kind == "failed" else ProcessGone(text)
