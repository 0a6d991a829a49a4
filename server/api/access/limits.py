"""Limits of a key: requests per minute (a token bucket) and concurrent requests. Each server process counts its own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from server.errors import RateLimited

BUSY_RETRY_S = 1  # It is unknown when another request of the key ends.


@dataclass(frozen=True, slots=True)
class Limit:
    """The limits of a key."""

    key_id: str
    requests_per_minute: int | None
    """Also the size of a burst."""
    max_concurrent: int | None


@dataclass(slots=True)
class _Use:
    tokens: float
    at: float
    """Clock reading at the last count of `tokens`."""
    running: int = 0


class Limits:
    """Counts the requests of all limited keys."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._uses: dict[str, _Use] = {}

    def enter(self, limit: Limit | None) -> None:
        """Begin a request; `leave` must follow.

        Raises:
            RateLimited: the key is at a limit. Nothing was counted, and `leave` must not follow.
        """
        if limit is None:
            return
        rate, now = limit.requests_per_minute, self.clock()
        use = self._uses.setdefault(limit.key_id, _Use(rate or 0, now))
        if limit.max_concurrent is not None and use.running >= limit.max_concurrent:
            raise RateLimited(
                f"this key is limited to {limit.max_concurrent} concurrent requests", retry_after_s=BUSY_RETRY_S
            )
        if rate is not None:
            use.tokens, use.at = min(rate, use.tokens + (now - use.at) * rate / 60), now
            if use.tokens < 1:
                raise RateLimited(
                    f"this key is limited to {rate} requests per minute",
                    retry_after_s=math.ceil((1 - use.tokens) * 60 / rate),
                )
            use.tokens -= 1
        use.running += 1

    def leave(self, limit: Limit | None) -> None:
        """End a request."""
        if limit is not None:
            self._uses[limit.key_id].running -= 1
