"""Threads for calls that block, each with a time limit, and a way to end a call that does not come back.

A call that is late gets `Stuck` raised into its thread, which ends any endless loop written in Python. A thread that
does not end even so is left alone and counted: only the end of its process can end it. What is called, and what its
lateness means for an environment, is `instances.py`.
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
"""How long a thread may take to end once it was told to; ours."""
LOOK_S = 0.02


class EnvironmentTimeout(EnvironmentFailure):
    """The environment did not answer in time."""

    def __init__(self, text: str, *, ended: bool = True) -> None:
        super().__init__(text)
        self.ended = ended
        """Whether the late call has ended since; if not, its environment cannot be touched any more."""


class Stuck(BaseException):
    """Raised into a thread whose call is late. Not an `Exception`: few catch it by mistake."""


@dataclass(frozen=True, slots=True)
class _Job:
    """One call and who waits for it."""

    do: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[tuple[Any, Exception | None]]


class _Worker:
    """One thread that does one call after another until it is told to stop or was late."""

    def __init__(self) -> None:
        self.jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self.late = False
        self.thread = threading.Thread(target=self._run, name="environment", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            while not self.late and (job := self.jobs.get()) is not None:
                outcome = _outcome(job.do)
                with suppress(RuntimeError):  # The loop is closed: nobody waits any more.
                    job.loop.call_soon_threadsafe(_settle, job.done, outcome)
                del job, outcome  # An idle thread keeps nothing alive.
        except Stuck:
            pass  # It came just after the call had ended by itself.


def _outcome(do: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """Do a call; return its result or why it failed."""
    try:
        return do(), None
    except Stuck:
        return None, EnvironmentTimeout("it was ended since it did not answer in time")
    except StopIteration as error:  # A future cannot carry it.
        return None, EnvironmentFailure(f"StopIteration: {error}")
    except Exception as error:
        return None, error
    except BaseException as error:  # sys.exit() of a library ends its environment, not a thread of ours.
        return None, EnvironmentFailure(f"{type(error).__name__}: {error}")


def _settle(done: asyncio.Future[tuple[Any, Exception | None]], outcome: tuple[Any, Exception | None]) -> None:
    if not done.done():
        done.set_result(outcome)


class Workers:
    """As many threads as calls were ever running at once. Used from one event loop."""

    def __init__(self, grace_s: float = GRACE_S) -> None:
        self._grace_s = grace_s
        self._idle: list[_Worker] = []
        self._late: set[_Worker] = set()

    @property
    def stuck(self) -> int:
        """Threads that do not end although they were told to."""
        self._late = {worker for worker in self._late if worker.thread.is_alive()}
        return len(self._late)

    async def call(self, do: Callable[[], T], limit_s: float) -> T:
        """Do a call in a thread and return what it returns. Whoever cancels this leaves the thread to its call.

        Raises:
            EnvironmentTimeout: it took longer than `limit_s`; its thread has been told to end.
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
        """End the idle threads; those in a call end after it or with the process."""
        while self._idle:
            self._idle.pop().jobs.put(None)

    async def _end(self, worker: _Worker) -> None:
        """Tell a late thread to end, for as long as it may take; count it where it does not."""
        worker.late = True
        worker.jobs.put(None)
        self._late.add(worker)
        for look in range(round(self._grace_s / LOOK_S)):
            if not worker.thread.is_alive():
                return
            if look % 10 == 0:  # Code that catches everything may have swallowed it.
                _raise_in(worker.thread)
            await asyncio.sleep(LOOK_S)


def _raise_in(thread: threading.Thread) -> None:
    if thread.ident is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(Stuck))
