"""The one writer thread: work from any task, committed in groups, answered only after the commit.

A chat handler that is cancelled in the middle cannot cancel its write: work that was submitted is done. Work that fails
is undone alone (a savepoint each) and does not touch its neighbours. Where the database itself fails, nothing of the
group is taken for done: SQLite may have dropped the whole transaction, savepoints and all. Work may be run again.
Work of one kind that waits together (`Many`) is done in one go, kinds that others build on first.
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
AnyFuture = Future[Any] | asyncio.Future[Any]
Pair = tuple[Work, AnyFuture]
Outcome = tuple[AnyFuture, Any, BaseException | None]

MAX_GROUP = 64  # Works per commit, or nearly twice as many: bounds how long the first of them waits.


@dataclass(frozen=True, slots=True)
class Many(Generic[Item, T]):
    """Work on one item, of a kind that is cheaper for several items at once."""

    do: Callable[[Session, list[Item]], Sequence[T | Exception]]
    """Does it for some items; returns a result for each, or why it was refused, having written nothing of it."""
    item: Item
    rank: int = 1
    """Of works that wait together, those of a lower rank are done first."""

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
        self._queue: queue.Queue[list[Pair] | None] = queue.Queue()
        self._gathered: list[Pair] = []
        """Work of the present turn of the event loop."""
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._closed = False
        self._thread.start()

    def submit(self, work: Callable[[Session], T]) -> Future[T]:
        """Hand in work from any thread; the future is done when the work is committed."""
        if self._closed:
            raise RuntimeError("the writer is closed")
        future: Future[T] = Future()
        self._queue.put([(work, future)])
        return future

    def begin(self, work: Callable[[Session], T]) -> asyncio.Future[T]:
        """Hand in work from the event loop; the future is done when the work is committed.

        What is handed in during one turn of the loop stays together: answers that end at once are committed at once.
        """
        if self._closed:
            raise RuntimeError("the writer is closed")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        if not self._gathered:
            loop.call_soon(self._hand_in)
        self._gathered.append((work, future))
        return future

    async def write(self, work: Callable[[Session], T]) -> T:
        """Do the work and wait for its commit; the work is done even if the waiting task is cancelled."""
        return await asyncio.shield(self.begin(work))

    def _hand_in(self) -> None:
        works, self._gathered = self._gathered, []
        for first in range(0, len(works), MAX_GROUP):
            self._queue.put(works[first : first + MAX_GROUP])

    def close(self) -> None:
        """Finish what was handed in, then stop."""
        if not self._closed:
            self._closed = True
            self._hand_in()
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
        _tell([(future, *outcome) for (_, future), outcome in zip(group, outcomes, strict=True)])


def _tell(outcomes: list[Outcome]) -> None:
    """Let everybody know: those who wait in an event loop all at once, since each wake-up of a loop costs."""
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
    """Return the works with those of a kind beside each other, as far as no other work stands between them."""
    return [
        pair
        for joint, pairs in groupby(group, key=lambda pair: isinstance(pair[0], Many))
        for pair in (sorted(pairs, key=lambda pair: pair[0].rank) if joint else pairs)  # type: ignore[attr-defined]
    ]


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
