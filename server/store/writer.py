"""The one writer thread: work from any task, committed in groups, answered only after the commit.

A chat handler that is cancelled in the middle cannot cancel its write: work that was submitted is done. Work that fails
is undone alone (a savepoint each) and does not touch its neighbours. Where the database itself fails, nothing of the
group is taken for done: SQLite may have dropped the whole transaction, savepoints and all. Work may be run again.
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

from server.store.database import BROKEN, unavailable

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
            if group:
                self._commit(group)
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

    def _commit(self, group: list[tuple[Work, Future[Any]]]) -> None:
        """Run a group in one transaction; where that fails, each half in its own, down to the work that is at fault."""
        outcomes: list[tuple[Any, BaseException | None]] = []
        begun = False
        try:
            with Session(self._engine, expire_on_commit=False) as session, session.begin():
                session.connection()
                begun = True
                for work, _ in group:
                    try:
                        with session.begin_nested():
                            result = work(session)
                        outcomes.append((result, None))
                    except BROKEN:
                        raise
                    except Exception as error:
                        outcomes.append((None, error))
        except Exception as error:
            if begun and len(group) > 1:
                half = len(group) // 2
                self._commit(group[:half])
                self._commit(group[half:])
                return
            outcomes = [(None, unavailable(error) if isinstance(error, BROKEN) else error)] * len(group)
        for (_, future), (result, failure) in zip(group, outcomes, strict=True):
            if failure is not None:
                future.set_exception(failure)
            else:
                future.set_result(result)
