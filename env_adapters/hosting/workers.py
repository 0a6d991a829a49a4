"""Threads for blocking calls, each call with a time limit, and a way to interrupt a call that does not return.

After a timeout, `Stuck` is raised in the call's thread, which interrupts any endless loop in Python code. A thread that
still does not end is abandoned and counted: only the end of its process can end it. `instances.py` makes the calls and
decides what a timeout means for an environment.
"""

from __future__ import annotations

import asyncio
import ctypes
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from env_adapters.protocol import EnvironmentFailure

T = TypeVar("T")
GRACE_S = 2.0
"""How long an interrupted thread may take to end; default chosen by this project."""
POLL_S = 0.02


class EnvironmentTimeout(EnvironmentFailure):
    """The environment did not answer in time."""

    def __init__(self, text: str, *, ended: bool = True) -> None:
        super().__init__(text)
        self.ended = ended
        """Whether the call has ended since the timeout; if not, its environment must not be touched again."""


class Stuck(BaseException):
    """Raised in a thread whose call timed out. Not an `Exception`, so that little code catches it by mistake."""


@dataclass(frozen=True, slots=True)
class _Job:
    """A call and the future of its result."""

    do: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[tuple[Any, Exception | None]]


class _Worker:
    """A thread that executes one call after another, until it is stopped or a call times out."""

    def __init__(self) -> None:
        self.jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self.late = False
        self.thread = threading.Thread(target=self._run, name="environment", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            while not self.late and (job := self.jobs.get()) is not None:
                outcome = _outcome(job.do)
                with suppress(RuntimeError):  # The loop is closed, so nothing awaits the result.
                    job.loop.call_soon_threadsafe(_settle, job.done, outcome)
                del job, outcome  # An idle thread must not keep objects alive.
        except Stuck:
            pass  # Raised just after the call had ended on its own.


def _outcome(do: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """Make a call; return its result, or the error of its failure."""
    try:
        return do(), None
    except Stuck:
        return None, EnvironmentTimeout("the call was interrupted because it did not return in time")
    except StopIteration as error:  # A future cannot hold a StopIteration.
        return None, EnvironmentFailure(f"StopIteration: {error}")
    except Exception as error:
        return None, error
    except BaseException as error:  # sys.exit() in a library ends its environment, not this thread.
        return None, EnvironmentFailure(f"{type(error).__name__}: {error}")


def _settle(done: asyncio.Future[tuple[Any, Exception | None]], outcome: tuple[Any, Exception | None]) -> None:
    if not done.done():
        done.set_result(outcome)


class Workers:
    """A pool with as many threads as calls have ever run at once. Used from one event loop."""

    def __init__(self, grace_s: float = GRACE_S) -> None:
        self._grace_s = grace_s
        self._idle: list[_Worker] = []
        self._late: set[_Worker] = set()

    @property
    def stuck(self) -> int:
        """Number of threads that have not ended after an interrupt."""
        self._late = {worker for worker in self._late if worker.thread.is_alive()}
        return len(self._late)

    async def call(self, do: Callable[[], T], limit_s: float) -> T:
        """Make a call in a thread and return its result. Canceling this does not interrupt the call.

        Raises:
            EnvironmentTimeout: the call took longer than `limit_s`; its thread has been interrupted.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[tuple[T, Exception | None]] = loop.create_future()
        worker = self._idle.pop() if self._idle else _Worker()
        worker.jobs.put(_Job(do, loop, done))
        await asyncio.wait([done], timeout=limit_s)
        if not done.done():
            await self._end(worker)
            raise EnvironmentTimeout(f"no answer within {limit_s:g} s", ended=not worker.thread.is_alive())
        self._idle.append(worker)
        result, error = done.result()
        if error is not None:
            raise error
        return result

    def close(self) -> None:
        """End the idle threads. Busy threads end after their call or with the process."""
        while self._idle:
            self._idle.pop().jobs.put(None)

    async def _end(self, worker: _Worker) -> None:
        """Interrupt a thread repeatedly for the grace period; count it as stuck while it lives."""
        worker.late = True
        worker.jobs.put(None)
        self._late.add(worker)
        for poll in range(round(self._grace_s / POLL_S)):
            if not worker.thread.is_alive():
                return
            if poll % 10 == 0:  # Code that catches everything may have swallowed the exception.
                _raise_in(worker.thread)
            await asyncio.sleep(POLL_S)


def _raise_in(thread: threading.Thread) -> None:
    if thread.ident is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(Stuck))
