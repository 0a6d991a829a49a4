"""The thread in each process that notices when other processes have ended, and then ends this one."""

from __future__ import annotations

import logging
import os
import threading
import time

import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from learner.parallel.ending import Ending

log = logging.getLogger(__name__)

CHECK_S = 1.0
"""Pause between two checks of the other processes."""
SILENT_S = 60.0
"""A process without a heartbeat for this long is lost; the end of one on the same machine is noticed at once."""
GRACE_S = 15.0
"""Time that a process has to leave after another has ended."""


class Monitor:
    """Sends this process's heartbeat and notices the end of the others.

    Args:
        store: shared by all processes.
        ending: the record of why processes end.
        rank: number of this process; process 0 listens to the heartbeats.
        size: number of processes.
        backend: `nccl` or `gloo`.
    """

    def __init__(self, store: Store, ending: Ending, rank: int, size: int, backend: str) -> None:
        self._store = store
        self._ending = ending
        self._rank = rank
        self._size = size
        self._backend = backend
        self._parent = os.getppid()
        self._over = threading.Event()

    def start(self) -> None:
        """Begin to monitor."""
        threading.Thread(target=self._monitor, name="other processes", daemon=True).start()

    def stop(self) -> None:
        """Stop monitoring: this process is about to end."""
        self._over.set()

    def _monitor(self) -> None:
        heard = {other: ("", time.monotonic()) for other in range(self._size)}
        while not self._over.wait(CHECK_S):
            if os.getppid() != self._parent:  # the launcher was killed: nothing may outlive it
                os._exit(1)
            try:
                self._store.set(f"beat/{self._rank}", str(time.monotonic()))
                if self._rank == 0:
                    self._listen(heard)
                if self._ending.read() is not None:
                    break
            except RuntimeError as error:
                log.error("process %d: the first process's machine does not answer: %s", self._rank, error)
                break
        else:
            return
        if self._backend == "nccl":  # its collectives never notice that a process is gone
            dist.distributed_c10d._abort_process_group()
        if not self._over.wait(GRACE_S):
            log.error("process %d did not end within %.0f s and is killed", self._rank, GRACE_S)
            os._exit(1)

    def _listen(self, heard: dict[int, tuple[str, float]]) -> None:
        """Record a process whose heartbeat has not changed for `SILENT_S` as gone.

        Args:
            heard: the last heartbeat of each process, and the time at which it changed.
        """
        for other, (beat, since) in heard.items():
            key = f"beat/{other}"
            now = self._store.get(key).decode() if self._store.check([key]) else ""
            if now != beat:
                heard[other] = (now, time.monotonic())
            elif time.monotonic() - since > SILENT_S:
                self._ending.write("gone", f"process {other} has sent no heartbeat for {SILENT_S:.0f} s")
