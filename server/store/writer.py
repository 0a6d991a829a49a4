"""The one writer thread: work from any task, committed in groups, answered only after the commit.

A chat handler that is cancelled in the middle cannot cancel its write: work that was submitted is done. Work that fails
is undone alone (a savepoint each) and does not touch its neighbours. Where the database itself fails, nothing of the
group is taken for done: SQLite may have dropped the whole transaction, savepoints and all. Work may be run again.
Work of one kind that waits together (`Many`) is done in one go.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.store.database import BROKEN, unavailable

T = TypeVar("T")
Item = TypeVar("Item")
Work = Callable[[Session], Any]
Pair = tuple[Work, Future[Any]]

MAX_GROUP = 64  # Works per commit: bounds how long the first of them waits.


@dataclass(frozen=True, slots=True)
class Many(Generic[Item, T]):
    """Work on one item, of a kind that is cheaper for several items at once."""

    do: Callable[[Session, list[Item]], Sequence[T | Exception]]
    """Does it for some items; returns a result for each, or why it was refused, having written nothing of it."""
    item: Item

    def __call__(self, session: Session) -> T:
        """Do it for the one item."""
        (outcome,) = self.do(session, [self.item])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


class Writer:
    """Runs functions of a session, in order, in one thread."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._queue: queue.Queue[Pair | None] = queue.Queue()
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

    def _take_group(self) -> tuple[list[Pair], bool]:
        item = self._queue.get()
        group: list[Pair] = []
        while item is not None:
            group.append(item)
            if len(group) == MAX_GROUP:
                return group, False
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return group, False
        return group, True

    def _commit(self, group: list[Pair]) -> None:
        """Run a group in one transaction; where that fails, each half in its own, down to the work that is at fault."""
        outcomes: list[tuple[Any, BaseException | None]] = []
        begun = False
        try:
            with Session(self._engine, expire_on_commit=False) as session, session.begin():
                session.connection()
                begun = True
                for works in _kinds(group):
                    outcomes += _done_at_once(session, works) or [_done(session, work) for work in works]
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


def _kinds(group: list[Pair]) -> Iterator[list[Work]]:
    """Yield the works in order, neighbours of one kind together."""
    for _, pairs in groupby(group, key=lambda pair: pair[0].do if isinstance(pair[0], Many) else object()):
        yield [work for work, _ in pairs]


def _done(session: Session, work: Work) -> tuple[Any, BaseException | None]:
    """Do one work in a savepoint; return its result, or why it failed."""
    try:
        with session.begin_nested():
            return work(session), None
    except BROKEN:
        raise
    except Exception as error:
        return None, error


def _done_at_once(session: Session, works: list[Work]) -> list[tuple[Any, BaseException | None]]:
    """Do several works of one kind; nothing where they have to be done one by one."""
    many = [work for work in works if isinstance(work, Many)]
    if len(many) < 2:
        return []
    try:
        with session.begin_nested():
            outcomes = many[0].do(session, [work.item for work in many])
    except BROKEN:
        raise
    except Exception:
        return []  # One by one it shows whose fault it was.
    return [(None, o) if isinstance(o, Exception) else (o, None) for o in outcomes]
