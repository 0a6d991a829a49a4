"""Erases episodes some days after their end: at the start and every hour, a few at a time, never an open episode."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from server.background import Repeated
from server.recording.privacy import Privacy

log = logging.getLogger("upturn.retention")
HOUR_S, DAY_S = 3600, 86_400


class Retention:
    """The hourly job; idle without a retention period."""

    def __init__(self, privacy: Privacy, days: float | None, clock: Callable[[], float] = time.time) -> None:
        self._privacy = privacy
        self._days = days
        self._clock = clock
        self._repeated = Repeated(self.prune, HOUR_S)

    def start(self) -> None:
        """Prune now, and then every hour."""
        if self._days is not None:
            self._repeated.start()

    def close(self) -> None:
        """Stop. The rest is erased after the next start."""
        self._repeated.close()

    async def prune(self) -> int:
        """Erase expired episodes; return how many."""
        if self._days is None:
            return 0
        erased = await self._privacy.erase_ended(self._clock() - self._days * DAY_S)
        if erased:
            log.info("erased %d episodes that ended more than %g days ago", erased, self._days)
        return erased
