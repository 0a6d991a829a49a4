"""Erases episodes some days after their end: at the start and every hour, a few at a time, never an open episode."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from server.recording.privacy import Privacy

log = logging.getLogger("upturn.retention")
DAY_S = 86_400


class Retention:
    """The hourly job; idle without a retention period."""

    def __init__(self, privacy: Privacy, days: float | None, clock: Callable[[], float] = time.time) -> None:
        self._privacy = privacy
        self._days = days
        self._clock = clock
        self._scheduler = AsyncIOScheduler(timezone="UTC")

    def start(self) -> None:
        """Prune now, and then every hour."""
        if self._days is not None:
            self._scheduler.add_job(
                self.prune,
                "interval",
                hours=1,
                next_run_time=datetime.now(UTC),
                coalesce=True,
                max_instances=1,
                misfire_grace_time=None,
            )
            self._scheduler.start()

    def close(self) -> None:
        """Stop. The rest is erased after the next start."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    async def prune(self) -> int:
        """Erase expired episodes; return how many."""
        if self._days is None:
            return 0
        erased = await self._privacy.erase_ended(self._clock() - self._days * DAY_S)
        if erased:
            log.info("erased %d episodes that ended more than %g days ago", erased, self._days)
        return erased
