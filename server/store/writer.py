"""The one writer thread: work from any task, committed in groups, answered only after the commit.

A chat handler that is cancelled in the middle cannot cancel its write: work that was submitted is done. Work that fails
is undone alone (a savepoint each) and does not touch its neighbours.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session

T = TypeVar("T")
Work = Callable[[Session], Any]

MAX_GROUP = 64  # Works per commit: bounds how long the first of them waits.


class Writer:
    """Runs functions of a session, in order, in one thread."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._queue: queue.Queue[tuple[Work, Future[Any]] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._closed = False
        self._thread.start()

    def submit(self, work: Callable[[Session], T]) -> Future[T]:
        """Hand in work; the future is done when the work is committed."""
        if self._closed:
            raise RuntimeError("the writer is closed")
        future: Future[T] = Future()
        self._queue.put((work, future))
        return future

    async def write(self, work: Callable[[Session], T]) -> T:
        """Do the work and wait for its commit; the work is done even if the waiting task is cancelled."""
        return await asyncio.shield(asyncio.wrap_future(self.submit(work)))

    def close(self) -> None:
        """Finish what was handed in, then stop."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
            self._thread.join()

    def _run(self) -> None:
        while True:
            group, last = self._take_group()
            if group and not self._commit(group) and len(group) > 1:
                for pair in group:
                    self._commit([pair])
            if last:
                return

    def _take_group(self) -> tuple[list[tuple[Work, Future[Any]]], bool]:
        item = self._queue.get()
        group: list[tuple[Work, Future[Any]]] = []
        while item is not None:
            group.append(item)
            if len(group) == MAX_GROUP:
                return group, False
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return group, False
        return group, True

    def _commit(self, group: list[tuple[Work, Future[Any]]]) -> bool:
        """Run a group in one transaction; False asks the caller to try each alone."""
        outcomes: list[tuple[Future[Any], Any, BaseException | None]] = []
        try:
            with Session(self._engine, expire_on_commit=False) as session, session.begin():
                for work, future in group:
                    try:
                        with session.begin_nested():
                            outcomes.append((future, work(session), None))
                    except Exception as error:
                        outcomes.append((future, None, error))
        except Exception as error:
            if len(group) > 1:
                return False
            outcomes = [(group[0][1], None, error)]
        for future, result, failure in outcomes:
            if failure is not None:
                future.set_exception(failure)
            else:
                future.set_result(result)
        return True
