"""The one writer thread: executes work from any task, commits it in groups, and reports it only after the commit.

A canceled request handler cannot cancel its write: submitted work is always executed. Each work has a savepoint, so a
failure rolls back that work alone. If the database itself fails, the whole group counts as not done, because SQLite may
have dropped the transaction with its savepoints. Work can run more than once. Waiting works of one kind (`Many`) are
executed together, prerequisites first.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.errors import Unavailable
from server.store.database import BROKEN, unavailable

T = TypeVar("T")
Item = TypeVar("Item")
Work = Callable[[Session], Any]
AnyFuture = Future[Any] | asyncio.Future[Any]
Pair = tuple[Work, AnyFuture]
Outcome = tuple[AnyFuture, Any, BaseException | None]

MAX_GROUP = 64
"""Works per commit (at most nearly twice as many); bounds how long the first of them waits."""


@dataclass(frozen=True, slots=True)
class Many(Generic[Item, T]):
    """Work on one item, of a kind that costs less for several items together."""

    do: Callable[[Session, list[Item]], Sequence[T | Exception]]
    """Executes the work for several items. Returns for each its result, or the error that refused it unwritten."""
    item: Item
    rank: int = 1
    """Among waiting works, lower ranks are executed first."""

    def __call__(self, session: Session) -> T:
        """Execute the work for its one item."""
        (outcome,) = self.do(session, [self.item])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


class Writer:
    """Runs functions of a session in one thread, in order of submission."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._queue: queue.Queue[list[Pair] | None] = queue.Queue()
        self._gathered: list[Pair] = []
        """Work begun in the current iteration of the event loop."""
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._closed = False
        self.failing = False
        """Whether the database failed in the last transaction."""
        self.succeeded_at = time.monotonic()
        """When the last transaction was committed."""
        self._thread.start()

    def submit(self, work: Callable[[Session], T]) -> Future[T]:
        """Submit work from any thread; the future resolves after the commit."""
        if self._closed:
            raise RuntimeError("the writer is closed")
        future: Future[T] = Future()
        self._queue.put([(work, future)])
        return future

    def begin(self, work: Callable[[Session], T]) -> asyncio.Future[T]:
        """Submit work from the event loop; the future resolves after the commit.

        Work from one iteration of the loop stays in one group, so answers that end together are committed together.
        """
        if self._closed:
            raise RuntimeError("the writer is closed")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        if not self._gathered:
            loop.call_soon(self._enqueue)
        self._gathered.append((work, future))
        return future

    async def write(self, work: Callable[[Session], T]) -> T:
        """Submit work and wait for its commit. The work is executed even if the waiting task is canceled."""
        return await asyncio.shield(self.begin(work))

    def _enqueue(self) -> None:
        works, self._gathered = self._gathered, []
        for first in range(0, len(works), MAX_GROUP):
            self._queue.put(works[first : first + MAX_GROUP])

    def close(self) -> None:
        """Execute the submitted work, then stop."""
        if not self._closed:
            self._closed = True
            self._enqueue()
            self._queue.put(None)
            self._thread.join()

    def _run(self) -> None:
        while True:
            group, last = self._take_group()
            if group:
                self._commit(_by_rank(group))
            if last:
                return

    def _take_group(self) -> tuple[list[Pair], bool]:
        item = self._queue.get()
        group: list[Pair] = []
        while item is not None:
            group += item
            if len(group) >= MAX_GROUP:
                return group, False
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return group, False
        return group, True

    def _commit(self, group: list[Pair]) -> None:
        """Run a group in one transaction. If that fails, run each half in its own, down to the faulty work."""
        outcomes: list[tuple[Any, BaseException | None]] = []
        begun = False
        try:
            with Session(self._engine, expire_on_commit=False) as session, session.begin():
                session.connection()
                begun = True
                if len(group) == 1:
                    outcomes.append(_execute_alone(session, group[0][0]))
                else:
                    for works in _kinds(group):
                        outcomes += _execute_together(session, works) or [_execute(session, work) for work in works]
        except Exception as error:
            if begun and len(group) > 1:
                half = len(group) // 2
                self._commit(group[:half])
                self._commit(group[half:])
                return
            outcomes = [(None, unavailable(error) if isinstance(error, BROKEN) else error)] * len(group)
            self.failing = self.failing or isinstance(error, (*BROKEN, Unavailable))
        else:
            self.failing, self.succeeded_at = False, time.monotonic()
        _notify([(future, *outcome) for (_, future), outcome in zip(group, outcomes, strict=True)])


def _notify(outcomes: list[Outcome]) -> None:
    """Resolve the futures; each event loop is woken once for all of its futures, since a wake-up is expensive."""
    loops: dict[asyncio.AbstractEventLoop, list[Outcome]] = {}
    for outcome in outcomes:
        if isinstance(outcome[0], asyncio.Future):
            loops.setdefault(outcome[0].get_loop(), []).append(outcome)
        else:
            _settle([outcome])
    for loop, waiting in loops.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_settle, waiting)


def _settle(outcomes: list[Outcome]) -> None:
    for future, result, failure in outcomes:
        if future.cancelled():
            continue
        if failure is not None:
            future.set_exception(failure)
        else:
            future.set_result(result)


def _by_rank(group: list[Pair]) -> list[Pair]:
    """Sort each uninterrupted sequence of `Many` works by rank; every other work keeps its place."""
    return [
        pair
        for joint, pairs in groupby(group, key=lambda pair: isinstance(pair[0], Many))
        for pair in (sorted(pairs, key=lambda pair: pair[0].rank) if joint else pairs)  # type: ignore[attr-defined]
    ]


def _kinds(group: list[Pair]) -> Iterator[list[Work]]:
    """Yield the works in order, adjacent works of one kind together."""
    for _, pairs in groupby(group, key=lambda pair: pair[0].do if isinstance(pair[0], Many) else object()):
        yield [work for work, _ in pairs]


def _execute_alone(session: Session, work: Work) -> tuple[Any, BaseException | None]:
    """Execute the only work of a transaction, without a savepoint; return its result, or its error."""
    try:
        return work(session), None
    except BROKEN:
        raise
    except Exception as error:
        session.rollback()
        return None, error


def _execute(session: Session, work: Work) -> tuple[Any, BaseException | None]:
    """Execute one work in a savepoint; return its result, or its error."""
    try:
        with session.begin_nested():
            return work(session), None
    except BROKEN:
        raise
    except Exception as error:
        return None, error


def _execute_together(session: Session, works: list[Work]) -> list[tuple[Any, BaseException | None]]:
    """Execute several works of one kind together; return nothing if they must run one by one."""
    many = [work for work in works if isinstance(work, Many)]
    if len(many) < 2:
        return []
    try:
        with session.begin_nested():
            outcomes = many[0].do(session, [work.item for work in many])
    except BROKEN:
        raise
    except Exception:
        return []  # Running them one by one isolates the faulty work.
    return [(None, o) if isinstance(o, Exception) else (o, None) for o in outcomes]
