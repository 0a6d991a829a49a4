"""Sends ended episodes, rewards, and metrics to an OTLP receiver. Never in the way: it reads the record in a thread.

What the receiver has taken is noted in a file, so a restart continues there. While the receiver is away nothing is lost
and nothing piles up in memory: the record is the queue. The first start sends nothing of what is there already.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from server.background import Repeated
from server.metrics import Metrics
from server.store.database import BROKEN, Database, id_at
from server.telemetry.ended import ended_after, rewards_after
from server.telemetry.position import Position
from server.telemetry.settings import TelemetrySettings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

log = logging.getLogger("upturn.telemetry")
TARGET = "otlp"
PAGE = 20
"""Episodes of one request; rewards are ten times as many."""
PAGES = 50
"""Requests of one export, after which metrics have their turn."""
TIMEOUT_S = 10.0


class Otlp:
    """The export to one receiver; idle without an address."""

    def __init__(
        self,
        settings: TelemetrySettings,
        policy: str,
        *,
        database: Database,
        metrics: Metrics,
        position: Position,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Prepare the export.

        Args:
            settings: where and how often.
            policy: name of the policy.
            database: the record.
            metrics: the metrics that are sent, and where exports are counted.
            position: how far the export has come.
            clock: Unix seconds.
        """
        self._settings = settings
        self._policy = policy
        self._database = database
        self._metrics = metrics
        self._position = position
        self._clock = clock
        self._repeated = Repeated(self.export, settings.every_s)
        self._failing = False

    def start(self) -> None:
        """Export now, and then again and again."""
        if self._settings.otlp is not None:
            from server.telemetry.sending import Sender  # Here since its packages take a while to load.

            self._began_at = self._clock()
            headers = {name: value.get_secret_value() for name, value in self._settings.otlp_headers.items()}
            self._sender = Sender(self._settings.otlp, headers, self._settings, self._policy, TIMEOUT_S)
            self._repeated.start()

    def close(self) -> None:
        """Stop; the next start continues."""
        self._repeated.close()

    async def export(self) -> None:
        """Send what has ended since the last export, and the metrics."""
        try:
            await asyncio.to_thread(self._export)
        except BROKEN as error:
            log.warning("the record cannot be read, so nothing is exported: %s", type(error).__name__)

    def _export(self) -> None:
        now = self._clock()
        position = {"closed_at": now, "episode": "", "reward": id_at("rw", now), **self._position.read()}
        if position["closed_at"] > now:  # The clock was set back.
            position |= {"closed_at": now, "episode": ""}
        self._position.write(position)
        for _ in range(PAGES):
            with self._database.read() as session:
                episodes = ended_after(session, position["closed_at"], position["episode"], now, PAGE)
                rewards = rewards_after(session, position["reward"], now, 10 * PAGE)
                spans: list[ReadableSpan] = [
                    *(span for episode in episodes for span in self._sender.traces.of_episode(episode)),
                    *map(self._sender.traces.of_reward, rewards),
                ]
            if not spans:
                break
            if not self._counted(self._sender.send_spans(spans)):
                return
            if episodes:
                position |= {"closed_at": episodes[-1].row.closed_at, "episode": episodes[-1].row.id}
            if rewards:
                position["reward"] = rewards[-1].id
            self._position.write(position)
        self._counted(self._sender.send_metrics(self._metrics.registry, self._began_at))

    def _counted(self, sent: bool) -> bool:
        """Count a request; log the first one that fails, and the first that succeeds again."""
        self._metrics.exported(TARGET, "sent" if sent else "failed")
        if sent is self._failing:
            self._failing = not sent
            if sent:
                log.info("%s takes telemetry again", self._settings.otlp)
            else:
                log.warning(
                    "%s does not take telemetry; trying again every %g s", self._settings.otlp, self._settings.every_s
                )
        return sent
