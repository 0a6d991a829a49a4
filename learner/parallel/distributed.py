"""The processes of one learner: how they share answers and values, and how they end together.

    process 0    claim, lease, publish, acknowledge   ── answers and errors ──▶   every other process
    all          the same loop on the same batch, each with its own samples and its own part of the weights

`from_first` gives every process what process 0 got from the server, so all take the same path through the loop. If
something happens to one process alone, such as an out-of-memory error or a signal, it is recorded where all can read
it, and the first such entry ends all of them (`ending.py`, `monitor.py`). In one process every function here is
trivial, and torch.distributed is never started.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist

from learner.parallel.ending import Ending, ProcessGone
from learner.parallel.monitor import Monitor

T = TypeVar("T")
P = ParamSpec("P")


class _Processes:
    """The processes that torchrun started, as this process sees them."""

    def __init__(self, device: torch.device) -> None:
        backend = "nccl" if device.type == "cuda" else "gloo"
        if device.type == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group(backend)
        self.device = device.type
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        # Python objects are sent over the CPU's backend. A wait for the server has no time limit here: the monitor ends
        # it.
        self.control = dist.new_group(backend="gloo", timeout=timedelta(days=365))
        self.pending_stop: BaseException | None = None
        """A stop that arrived while this process could not leave."""
        self.may_leave = False
        """True if a stop may be raised at once: no other process waits for this one's part of a computation."""
        self._store = dist.distributed_c10d.PrefixStore("upturn", dist.distributed_c10d._get_default_store())
        self._answers = 0
        self.ending = Ending(self._store, self.rank, self.size)
        self._monitor = Monitor(self._store, self.ending, self.rank, self.size, backend)
        if self.rank == 0:
            self._store.set("answers", "0")
        dist.barrier(self.control)
        self._monitor.start()

    def from_first(self, call: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Return the result of a call in process 0, or raise the error that it raises there."""
        self._answers += 1
        box: list[Any] = [None]
        if self.rank == 0:
            try:
                with _MayLeave(self):
                    box = [(call(*arguments, **named), None)]
            except Exception as error:
                box = [(None, (type(error), error.args, error.__dict__))]
            self._store.set("answers", str(self._answers))
        else:
            with _MayLeave(self):
                self._await_answer()
        dist.broadcast_object_list(box, src=0, group=self.control)
        answer, raised = box[0]
        if raised is None:
            return answer
        kind, details, attributes = raised
        copy = kind.__new__(kind, *details)  # not __init__, which may take other arguments
        copy.args = details
        copy.__dict__.update(attributes)
        raise copy

    def _await_answer(self) -> None:
        """Wait until process 0 has an answer; not in a collective, so that a stop can end the wait."""
        pause = 0.001
        while int(self._store.get("answers")) < self._answers:
            if (end := self.ending.read()) is not None:
                raise self.ending.as_error(end)
            time.sleep(pause)
            pause = min(2 * pause, 0.05)

    def any_of(self, flag: bool) -> bool:
        """Return whether the flag is set in any process; raise in all if any has a pending stop."""
        flags = torch.tensor([flag, self.pending_stop is not None], dtype=torch.int32)
        dist.all_reduce(flags, dist.ReduceOp.MAX, self.control)
        if flags[1]:
            raise self.pending_stop or ProcessGone("another process was told to stop")
        return bool(flags[0])

    def close(self, code: int) -> None:
        """Leave the group; if processes did not end in agreement, end this process with `code`."""
        self._monitor.stop()
        try:
            agreed = self.ending.read() is None
        except RuntimeError:
            agreed = False
        if agreed:
            dist.destroy_process_group()
            return
        logging.shutdown()
        os._exit(code)  # the connections' threads may wait for processes that are gone


class _MayLeave:
    """Raises a stop at once while the `with` block lasts, and a pending one at its beginning."""

    def __init__(self, processes: _Processes) -> None:
        self._processes = processes

    def __enter__(self) -> None:
        self._processes.may_leave = True
        if self._processes.pending_stop is not None:
            self._processes.may_leave = False
            raise self._processes.pending_stop

    def __exit__(self, *_: object) -> None:
        self._processes.may_leave = False


_processes: _Processes | None = None


def start(device: torch.device) -> None:
    """Join the other processes if torchrun started several. Call it once, before anything else here."""
    global _processes
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _processes = _Processes(device)


def close(code: int) -> None:
    """Leave the other processes.

    Args:
        code: exit code of this process if the processes did not end in agreement.
    """
    if _processes is not None:
        _processes.close(code)


def count() -> int:
    """Return the number of processes."""
    return 1 if _processes is None else _processes.size


def number() -> int:
    """Return this process's number; process 0 talks to the server and writes files."""
    return 0 if _processes is None else _processes.rank


def is_first() -> bool:
    """Return whether this is process 0, which talks to the server and writes files."""
    return number() == 0


def device_type() -> str:
    """Return the type of the device on which several processes compute."""
    return "cpu" if _processes is None else _processes.device


def control() -> dist.ProcessGroup | None:
    """Return the group for everything except the model's tensors; None in one process."""
    return None if _processes is None else _processes.control


def from_first(call: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Call in process 0 alone; return its result, or raise its error, in all processes."""
    if _processes is None:
        return call(*arguments, **named)
    return _processes.from_first(call, *arguments, **named)


def gathered(value: T) -> list[T]:
    """Return the values of all processes, in their order."""
    if _processes is None:
        return [value]
    values: list[Any] = [None] * _processes.size
    dist.all_gather_object(values, value, group=_processes.control)
    return values


def any_of(flag: bool) -> bool:
    """Return whether the flag is set in any process; if one was told to stop, all stop here."""
    return flag if _processes is None else _processes.any_of(flag)


def interrupt(stop: BaseException) -> None:
    """Raise a stop, at once or where all processes can stop together."""
    if _processes is None or _processes.may_leave:
        raise stop
    _processes.pending_stop = stop


def stopped(reason: str) -> None:
    """Tell the other processes that this one was stopped."""
    if _processes is not None:
        _processes.ending.write("gone", reason)


def root_cause(error: Exception, reason: str) -> BaseException:
    """Return the error that this process ends with: its own, or that of the first process to end.

    Args:
        error: raised in this process.
        reason: the reason that the run would end with.
    """
    return error if _processes is None else _processes.ending.root_cause(error, reason)
