"""The notifications of a server: looks for events every few seconds, and runs the delivery to each target."""

from __future__ import annotations

import asyncio
import logging
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from server import background
from server.errors import Conflict, Unavailable
from server.metrics import Metrics
from server.notifications import outbox, sources
from server.notifications.command import Command
from server.notifications.delivery import Delivery
from server.notifications.events import TEST, Event
from server.notifications.settings import NotifySettings
from server.notifications.target import Target
from server.notifications.waiting import AFTER_START_S, HOUR_S, from_waiting
from server.notifications.webhook import Webhook
from server.readiness import Check, Part, Readiness
from server.section import SettingsError
from server.store.database import BROKEN, Database
from server.store.tables import NotificationTargetRow
from server.store.writer import Writer
from upturn.wire import NotificationList, NotificationTest, TargetTest
from upturn.wire.notifications import OFF

log = logging.getLogger("upturn.notifications")
ARRIVES = "this is a test: notifications of this server arrive here"
PAUSE_S = 5.0
"""Seconds between two looks."""


class Notifications:
    """Finds events in rows and delivers them; without a target it does nothing.

    Args:
        settings: which events are sent.
        targets: where to.
        disk: the check of the disk.
        policy: name of the policy, for texts.
        database: where events are found and kept.
        writer: the database's one writer.
        metrics: counts attempts.
        clock: returns Unix time.
    """

    def __init__(
        self,
        settings: NotifySettings,
        targets: Sequence[Target],
        *,
        disk: Check,
        policy: str,
        database: Database,
        writer: Writer,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._events = frozenset(settings.events)
        self._waiting_s = settings.waiting_h * HOUR_S
        self._started_at = clock()
        self._server = settings.server or socket.gethostname()
        self._policy = policy
        self._disk = Readiness({"disk": disk})
        self._database = database
        self._writer = writer
        self._metrics = metrics
        self.clock = clock
        self._deliveries = {target.name: Delivery(target, database, writer, metrics, clock) for target in targets}
        self._looking = asyncio.Lock()
        self._full: Event | None = None
        """The event of the full disk, while it is full."""
        self._told_of_full: set[str] = set()
        """Targets that got it before it could be written."""
        self._tests: set[asyncio.Task[TargetTest]] = set()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Note the targets, and start to look and to deliver."""
        await self._writer.write(lambda session: outbox.keep_targets(session, list(self._deliveries), self.clock()))
        if self._deliveries:
            for delivery in self._deliveries.values():
                delivery.start()
            self._task = asyncio.create_task(self._look_repeatedly())

    async def close(self) -> None:
        """Stop at once, also during a delivery; what has not arrived is sent after the next start."""
        await background.end(self._task, *self._tests)
        for delivery in self._deliveries.values():
            await delivery.close()
            await delivery.target.close()

    async def look(self) -> None:
        """Write the events since the last look into the outbox."""
        async with self._looking:  # Two looks at once would both find the disk full.
            await self._look()

    async def _look(self) -> None:
        part = (await self._disk.parts())["disk"]
        if part.ok:
            self._full = None
            self._told_of_full.clear()
        found = await asyncio.to_thread(self._find, part)
        if any(found.values()):
            try:
                await self._writer.write(lambda session: outbox.add(session, found, self._server, self.clock()))
            except (*BROKEN, Unavailable):
                await self._tell_of_full_disk(found)
                raise
            for delivery in self._deliveries.values():
                delivery.wake()
        waiting = await asyncio.to_thread(self._count_waiting)
        for name in self._deliveries:
            self._metrics.notifications_waiting.labels(name).set(waiting.get(name, 0))

    async def views(self, limit: int) -> NotificationList:
        """Return the newest notifications, newest first."""

        def read() -> NotificationList:
            with self._database.read() as session:
                return NotificationList(targets=sorted(self._deliveries), data=outbox.newest(session, limit))

        return await asyncio.to_thread(read)

    async def test(self, text: str = ARRIVES) -> NotificationTest:
        """Send a test message to every target, once, and say what became of it.

        Args:
            text: what it says.

        Raises:
            Conflict: no target is configured.
            Unavailable: the server is stopping.
        """
        if not self._deliveries:
            raise Conflict(OFF, code="notifications_off")
        event = Event(TEST, TEST, self.clock(), text, path="/v1/notifications")
        tests = [asyncio.create_task(self._test(delivery, event)) for delivery in self._deliveries.values()]
        self._tests.update(tests)
        try:
            return NotificationTest(data=await asyncio.gather(*tests))
        except asyncio.CancelledError:
            if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                raise
            raise Unavailable("the server is stopping; try again in a moment", code="draining") from None
        finally:
            self._tests.difference_update(tests)

    async def _test(self, delivery: Delivery, event: Event) -> TargetTest:
        failure = await delivery.attempt(event.id, event.payload(self._server, event.id))
        error = None if failure is None else str(failure)
        return TargetTest(target=delivery.target.name, arrived=failure is None, error=error)

    async def _look_repeatedly(self) -> None:
        failing = False
        while True:
            try:
                await self.look()
                failing = False
            except (*BROKEN, Unavailable) as error:
                if not failing:
                    log.error("cannot look for events, retrying: %s", error)
                failing = True
            except Exception:
                log.exception("cannot look for events, retrying")
            await asyncio.sleep(PAUSE_S)

    def _find(self, part: Part) -> dict[str, list[Event]]:
        """Return what happened and is not in the outbox, by target, in order of time."""
        found: dict[str, list[Event]] = {}
        now = self.clock()
        with self._database.read() as session:
            for name in self._deliveries:
                target = session.get(NotificationTargetRow, name)
                if target is None:
                    continue
                events = [*sources.from_ledger(session, target, self._policy), *sources.from_runs(session, target)]
                if now - self._started_at >= min(AFTER_START_S, self._waiting_s):
                    events += from_waiting(session, target, self._waiting_s, now)
                if (changed := sources.from_disk(session, name, part, now)) is not None:
                    events.append(self._same(changed))
                found[name] = sorted((one for one in events if one.type in self._events), key=lambda one: one.at)
        return found

    def _same(self, event: Event) -> Event:
        """Return the event of a full disk as it was first found, so that it keeps its id until it is written."""
        if event.type != "disk.full":
            return event
        self._full = self._full or event
        return self._full

    async def _tell_of_full_disk(self, found: dict[str, list[Event]]) -> None:
        """Send the event of a full disk although it cannot be written: the full disk may be why.

        Once it is written, it is sent again, with the same id.
        """
        for name, events in found.items():
            if self._full is not None and self._full in events and name not in self._told_of_full:
                payload = self._full.payload(self._server, self._full.id)
                if await self._deliveries[name].attempt(self._full.id, payload) is None:
                    self._told_of_full.add(name)

    def _count_waiting(self) -> dict[str, int]:
        with self._database.read() as session:
            return outbox.count_waiting(session)


def make_targets(settings: NotifySettings, data_dir: Path) -> list[Target]:
    """Return the configured targets.

    Raises:
        SettingsError: there is no such program.
    """
    targets: list[Target] = []
    if settings.webhook is not None and settings.secret is not None:
        url, secret = settings.webhook.get_secret_value(), settings.secret.get_secret_value()
        targets.append(Webhook(url, secret, settings.timeout_s))
    if settings.command:
        if shutil.which(settings.command[0]) is None:
            raise SettingsError(
                f"notify.command: there is no program {settings.command[0]!r} that can be started: name its full path"
            )
        log_file = data_dir / "logs" / "notify.log"
        targets.append(Command(settings.command, settings.env, settings.timeout_s, log_file))
    return targets
