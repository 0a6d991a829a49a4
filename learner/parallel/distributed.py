"""The processes of one learner: what they tell each other, and how they end together.

    process 0    claim, lease, publish, acknowledge   ── answers and errors ──▶   every other process
    all          the same loop on the same batch, each with its own samples and its own part of the weights

`from_first` gives everyone what process 0 got from the server, so all take the same way through the loop. Whatever one
process meets alone (no memory for a row, a stop) is written down where all can see it; the first such entry is why all
of them end. In one process every function here does nothing, and torch.distributed is never started.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""Pause between two looks at whether the others are well."""
SILENT_S = 60.0
"""A process that has not been heard of for so long is lost; one on the same machine is noticed at once."""
GRACE_S = 15.0
"""How long a process may take to leave once another has ended."""

T = TypeVar("T")


class ProcessFailed(Exception):
    """Another process failed; the message is its reason."""


class ProcessGone(BaseException):
    """Another process was stopped or is lost: leave the run as it is, for whoever goes on with it."""


class _Processes:
    """The processes that torchrun started; this is one of them."""

    def __init__(self, device: torch.device) -> None:
        self.backend = "nccl" if device.type == "cuda" else "gloo"
        if device.type == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group(self.backend)
        self.device = device.type
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        # Objects go over the CPU. Waiting for the server has no limit of its own: the watch ends it.
        self.control = dist.new_group(backend="gloo", timeout=timedelta(days=365))
        self.told: BaseException | None = None
        """A stop that came while this process could not leave."""
        self.may_leave = False
        """True where a stop may be raised at once: no other process waits for this one's part of a computation."""
        self._store = dist.distributed_c10d.PrefixStore("upturn", dist.distributed_c10d._get_default_store())
        self._answers = 0
        self._parent = os.getppid()
        self._over = threading.Event()
        if self.rank == 0:
            self._store.set("answers", "0")
        dist.barrier(self.control)
        threading.Thread(target=self._watch, name="other processes", daemon=True).start()

    def from_first(self, call: Callable[[], T]) -> T:
        """Return what `call` gives process 0, or raise what it raises there."""
        self._answers += 1
        box: list[Any] = [None]
        if self.rank == 0:
            try:
                with _MayLeave(self):
                    box = [(call(), None)]
            except Exception as met:
                box = [(None, (type(met), met.args, met.__dict__))]
            self._store.set("answers", str(self._answers))
        else:
            with _MayLeave(self):
                self._await_answer()
        dist.broadcast_object_list(box, src=0, group=self.control)
        answer, raised = box[0]
        if raised is None:
            return answer
        kind, arguments, facts = raised
        error = kind.__new__(kind, *arguments)  # without __init__, whose arguments may be others
        error.args = arguments
        error.__dict__.update(facts)
        raise error

    def _await_answer(self) -> None:
        pause = 0.001
        while int(self._store.get("answers")) < self._answers:
            if (end := self.end()) is not None:
                raise self._as_error(end)
            time.sleep(pause)
            pause = min(2 * pause, 0.05)

    def any_of(self, flag: bool) -> bool:
        """Return whether the flag is set on any process; raise on all where any was told to stop."""
        flags = torch.tensor([flag, self.told is not None], dtype=torch.int32)
        dist.all_reduce(flags, dist.ReduceOp.MAX, self.control)
        if flags[1]:
            raise self.told or ProcessGone("another process was told to stop")
        return bool(flags[0])

    def write_end(self, kind: str, reason: str) -> dict[str, Any]:
        """Write down why this process ends; return the first such entry of all processes."""
        mine = {"kind": kind, "process": self.rank, "reason": reason}
        try:
            return json.loads(self._store.compare_set("end", "", json.dumps(mine)))
        except RuntimeError:  # the store is with process 0's machine
            return {"kind": "gone", "process": 0, "reason": "its machine does not answer"}

    def end(self) -> dict[str, Any] | None:
        """Return the first entry of why processes end; None while all is well."""
        return json.loads(self._store.get("end")) if self._store.check(["end"]) else None

    def root_cause(self, error: Exception, reason: str) -> BaseException:
        """Return why all processes end, given what this one met."""
        lost = isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error)
        if lost:
            reason = f"the connection to another process broke: {error}"
        end = self.write_end("gone" if lost else "failed", reason)
        if isinstance(error, ProcessFailed) or (not lost and end["reason"] == reason):
            return error
        return self._as_error(end)

    def _as_error(self, end: dict[str, Any]) -> BaseException:
        text = f"process {end['process']} of {self.size}: {end['reason']}"
        return ProcessFailed(text) if end["kind"] == "failed" else ProcessGone(text)

    def _watch(self) -> None:
        """Say that this process lives, and leave when another has ended or this one's parent has."""
        heard = {other: ("", time.monotonic()) for other in range(self.size)}
        while not self._over.wait(LOOK_S):
            if os.getppid() != self._parent:  # the launcher was killed, which nothing outlives
                os._exit(1)
            try:
                self._store.set(f"beat/{self.rank}", str(time.monotonic()))
                if self.rank == 0:
                    self._listen(heard)
                if self.end() is not None:
                    break
            except RuntimeError as error:
                log.error("process %d: the first process's machine does not answer: %s", self.rank, error)
                break
        else:
            return
        if self.backend == "nccl":  # its collectives never notice that a process is gone
            dist.distributed_c10d._abort_process_group()
        if not self._over.wait(GRACE_S):
            log.error("process %d does not come to its end and is ended", self.rank)
            os._exit(1)

    def _listen(self, heard: dict[int, tuple[str, float]]) -> None:
        for other, (beat, since) in heard.items():
            key = f"beat/{other}"
            now = self._store.get(key).decode() if self._store.check([key]) else ""
            if now != beat:
                heard[other] = (now, time.monotonic())
            elif time.monotonic() - since > SILENT_S:
                self.write_end("gone", f"process {other} has not been heard of for {SILENT_S:.0f} s")

    def close(self, code: int) -> None:
        """End this process's part; where processes did not end in agreement, the process itself."""
        self._over.set()
        try:
            agreed = self.end() is None
        except RuntimeError:
            agreed = False
        if agreed:
            dist.destroy_process_group()
            return
        logging.shutdown()
        os._exit(code)  # the connections' threads may wait for processes that are gone


class _MayLeave:
    """While this lasts a stop is raised at once."""

    def __init__(self, processes: _Processes) -> None:
        self._processes = processes

    def __enter__(self) -> None:
        self._processes.may_leave = True
        if self._processes.told is not None:
            self._processes.may_leave = False
            raise self._processes.told

    def __exit__(self, *_: object) -> None:
        self._processes.may_leave = False


_processes: _Processes | None = None


def start(device: torch.device) -> None:
    """Meet the other processes where torchrun started several; once, before anything else here."""
    global _processes
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _processes = _Processes(device)


def close(code: int) -> None:
    """Part from the other processes."""
    if _processes is not None:
        _processes.close(code)


def count() -> int:
    """Return how many processes there are."""
    return 1 if _processes is None else _processes.size


def number() -> int:
    """Return this process's number; 0 talks to the server and writes files."""
    return 0 if _processes is None else _processes.rank


def is_first() -> bool:
    """Whether this process talks to the server and writes files."""
    return number() == 0


def device_type() -> str:
    """Return what several processes compute on."""
    return "cpu" if _processes is None else _processes.device


def control() -> dist.ProcessGroup | None:
    """Return the group for what is no tensor of the model; None in one process."""
    return None if _processes is None else _processes.control


def from_first(call: Callable[[], T]) -> T:
    """Call in process 0 alone; return its answer, or raise its error, in all."""
    return call() if _processes is None else _processes.from_first(call)


def gathered(value: T) -> list[T]:
    """Return every process's value, in their order."""
    if _processes is None:
        return [value]
    values: list[Any] = [None] * _processes.size
    dist.all_gather_object(values, value, group=_processes.control)
    return values


def any_of(flag: bool) -> bool:
    """Return whether the flag is set on any process; where one was told to stop, all stop here."""
    return flag if _processes is None else _processes.any_of(flag)


def interrupt(stop: BaseException) -> None:
    """Raise a stop, now or where all processes can stop together."""
    if _processes is None or _processes.may_leave:
        raise stop
    _processes.told = stop


def stopped(reason: str) -> None:
    """Tell the others that this process was stopped."""
    if _processes is not None:
        _processes.write_end("gone", reason)


def root_cause(error: Exception, reason: str) -> BaseException:
    """Return why this process ends: its own error, or that of the process that was first.

    Args:
        error: what this process met.
        reason: the same as the reason that a run ends with.
    """
    return error if _processes is None else _processes.root_cause(error, reason)
