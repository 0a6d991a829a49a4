"""Delivers the outbox's events to one target: in order, one at a time, each until it has arrived or is given up.

An attempt is written before it is made, and its outcome after. A server that is killed between the two sends the event
again with the same id, by which receivers drop repetitions.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from server import background
from server.errors import Unavailable
from server.metrics import Metrics
from server.notifications import outbox
from server.notifications.target import NotDelivered, Target
from server.store.database import BROKEN, Database
from server.store.tables import NotificationRow
from server.store.writer import Writer

log = logging.getLogger("upturn.notifications")
FIRST_S, GROWTH, LONGEST_S = 5.0, 4.0, 3600.0
"""Pause after the first failed attempt, factor from pause to pause, and longest pause."""
PATIENCE_S = 86_400.0
"""Age at which an event is given up after a failed attempt."""
LEAST_ATTEMPTS = 3
"""Attempts that every event gets, also one that has waited for a day behind others, or while the server was down."""
MOST_REFUSALS = 5
"""Refusals in a row, within minutes, after which an event is given up."""
DATABASE_S = 5.0
"""Pause before the database is asked again after it failed."""


class Delivery:
    """The background task of one target."""

    def __init__(
        self,
        target: Target,
        database: Database,
        writer: Writer,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.target = target
        self._database = database
        self._writer = writer
        self._metrics = metrics
        self.clock = clock
        self._free = asyncio.Lock()
        """Held during an attempt."""
        self._more = asyncio.Event()
        """There may be more to deliver."""
        self._hurry = asyncio.Event()
        """The next attempt need not wait."""
        self._refusals = 0
        """Of the current event in a row, by this process."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Deliver what waits, and then whatever is added."""
        self._task = asyncio.create_task(self._deliver_all())

    async def close(self) -> None:
        """Stop, also during an attempt; what has not arrived waits for the next start."""
        await background.end(self._task)

    def wake(self) -> None:
        """Look for new events."""
        self._more.set()

    async def attempt(self, event_id: str, payload: dict[str, Any]) -> NotDelivered | None:
        """Make one attempt, which is not recorded; return None if the event has arrived, otherwise why not."""
        body = json.dumps(payload, separators=(",", ":"), allow_nan=False).encode()
        async with self._free:
            try:
                await self.target.deliver(event_id, body)
            except Exception as error:
                self._metrics.notified(self.target.name, "failed")
                if isinstance(error, NotDelivered):
                    return error
                log.error("the delivery to the %s failed", self.target.name, exc_info=error)
                return NotDelivered(f"internal error ({type(error).__name__}): see the server's log")
        self._metrics.notified(self.target.name, outbox.SENT)
        self._hurry.set()
        return None

    async def _deliver_all(self) -> None:
        while True:
            try:
                await self._deliver_next()
            except (*BROKEN, Unavailable) as error:
                log.warning("cannot read the notifications of the %s, retrying: %s", self.target.name, error)
                await asyncio.sleep(DATABASE_S)
            except Exception:
                log.exception("the notifications of the %s stop for an hour", self.target.name)
                await asyncio.sleep(LONGEST_S)

    async def _deliver_next(self) -> None:
        """Make one attempt to deliver the oldest event; without one, wait."""
        self._more.clear()
        event = await asyncio.to_thread(self._next)
        if event is None:
            await self._more.wait()
            return
        attempts = await self._writer.write(lambda session: outbox.begin(session, event.number, self.clock()))
        self._hurry.clear()
        failure = await self.attempt(event.id, event.payload)
        await self._conclude(event, attempts, failure)

    async def _conclude(self, event: NotificationRow, attempts: int, failure: NotDelivered | None) -> None:
        """Record how an attempt ended; if the event still waits, wait for the time of the next attempt."""
        self._refusals = self._refusals + 1 if failure is not None and failure.refused else 0
        late = attempts >= LEAST_ATTEMPTS and self.clock() - event.created_at >= PATIENCE_S
        name = f"{event.type} {event.id}"
        if failure is None:
            state = outbox.SENT
        elif late or self._refusals >= MOST_REFUSALS:
            state, self._refusals = outbox.GIVEN_UP, 0
            self._metrics.notified(self.target.name, outbox.GIVEN_UP)
            log.error(
                "the %s did not get the notification %s, given up after %d attempts: %s",
                *(self.target.name, name, attempts, failure),
            )
        else:
            state = outbox.WAITING
            log.warning("the %s did not get the notification %s, retrying: %s", self.target.name, name, failure)
        await self._record(event.number, state, failure)
        if state == outbox.WAITING and failure is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), max(pause_s(attempts), failure.retry_after_s))

    async def _record(self, number: int, state: str, failure: NotDelivered | None) -> None:
        """Write the outcome until the database takes it: what has arrived is not sent again meanwhile."""
        error = None if failure is None else str(failure)
        while True:
            try:
                await self._writer.write(lambda session: outbox.finish(session, number, state, error))
                return
            except (*BROKEN, Unavailable) as broken:
                log.warning("cannot record what became of a notification, retrying: %s", broken)
                await asyncio.sleep(DATABASE_S)

    def _next(self) -> NotificationRow | None:
        with self._database.read() as session:
            return outbox.oldest_waiting(session, self.target.name)


def pause_s(attempts: int) -> float:
    """Return the pause after a number of failed attempts, in seconds: it grows, and is random by a quarter."""
    grown = min(LONGEST_S, FIRST_S * GROWTH ** min(attempts - 1, 20))
    return grown * random.uniform(0.75, 1.25)
